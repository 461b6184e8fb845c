"""A module that starts a thread on import."""

import threading

threading.Thread(target=threading.Event().wait, name="lurker", daemon=True).start()
