"""One thread for BLAS and torch in the whole suite: on busy cores several take thirty times as long, and change last bits.

Two processes share the files of tests (`make test`), so that one computes while the other waits for a server.
"""

import os

from threadpoolctl import threadpool_limits

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, and by the processes that tests start
threadpool_limits(1, user_api="blas")
