"""Parameters by name, as scikit-learn's `clone` asks for them."""

from __future__ import annotations

import inspect
from typing import Any, Self

from eo_cate.errors import EstimationError


class Parameters:
    """get_params and set_params for a class that keeps each argument of its constructor under the argument's name."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name."""
        return {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        Raises
        ------
        EstimationError
            For a name that is not a parameter.
        """
        known = sorted(self.get_params())
        unknown = sorted(set(params) - set(known))
        if unknown:
            raise EstimationError(f"{type(self).__name__} has no parameter(s) {unknown}; it has {known}")
        for name, value in params.items():
            setattr(self, name, value)
        return self
