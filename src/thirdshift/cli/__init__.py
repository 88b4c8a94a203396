"""The command ``thirdshift``: one file for each family of verbs. Heavy imports happen inside the commands."""
