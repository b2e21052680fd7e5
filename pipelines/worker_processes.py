"""What every worker process of a preparation command starts with."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Ends this process when its parent ends: left alone by a killed one, it would wait for work for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
