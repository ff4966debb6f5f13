"""The monitoring endpoint: the machines of a store as web pages and as JSON. Needs the extra ``web``."""

from tai_state.web.app import monitor_app as monitor_app
