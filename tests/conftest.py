"""One BLAS thread for the whole suite: on busy cores several take thirty times as long, and change last bits."""

from threadpoolctl import threadpool_limits

threadpool_limits(1, user_api="blas")
