"""From files to arrays, the run folders' and anybody's own. Every mistake that files can hold is found here."""
