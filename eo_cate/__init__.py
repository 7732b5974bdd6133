"""eo_cate: where does a programme work, and can satellite images tell?"""
