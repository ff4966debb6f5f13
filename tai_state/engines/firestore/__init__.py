"""The Firestore engine; it needs the extra ``firestore``. Opening a store loads the driver, importing this does not."""
