"""The report's pictures: generated sets, single cases, ranked lists, images as data URIs. No charts, no figures."""
