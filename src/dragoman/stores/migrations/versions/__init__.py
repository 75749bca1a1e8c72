"""One file per version of the tables. What has been released is never changed again."""
