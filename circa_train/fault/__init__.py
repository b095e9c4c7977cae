"""The fault model: what a sign test is (spec), what it answers (sign), how often it errs (law), from which
masks.
"""
