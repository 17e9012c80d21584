"""Judged answers: what a judge is asked, and how its reply is read."""
