"""Who was treated, where, and how it was randomised."""

from eo_cate.trial.load import find_problems, group_units, leave_group_out_share, load_sites, load_trial
from eo_cate.trial.people import People, load_people
from eo_cate.trial.summary import trial_summary

__all__ = [
    "People",
    "find_problems",
    "group_units",
    "leave_group_out_share",
    "load_people",
    "load_sites",
    "load_trial",
    "trial_summary",
]
