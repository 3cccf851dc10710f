"""Views: new datasets over shards that are packed already, of which no byte is copied.

To be read in this order: `files` (what a user names in files), `quality_rule` (`--drop`), `rule` (all that is asked of
a view), `names` (which rows a name means), `choice` (which clips a rule takes, from arrays alone), `pools` (the
datasets that clips are taken from, joined), `view` (a view's folder is written), `write_out` (a view becomes shards).
"""
