"""The steps of a run, in the order of `eo_cate.run`: stages put together with one run's options."""
