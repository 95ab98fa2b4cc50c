"""Bring the files of a case onto one grid: by their headers, or with a rigid registration in addition."""
