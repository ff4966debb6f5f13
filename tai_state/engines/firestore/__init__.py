"""The Firestore engine: the extra ``firestore``. Importing it loads no driver; opening a store does."""
