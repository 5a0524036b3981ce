"""Person re-identification: a strong baseline (BoT), an exact evaluator, and the benchmark that compares arms.

`arms` declares what is compared, `config` every setting. Generators do not belong here: they meet it in files.
"""
