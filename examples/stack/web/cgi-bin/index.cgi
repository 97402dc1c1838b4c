#!/bin/sh
# What this replica sees of its configuration, and the visit that the database has just counted.
echo "Content-Type: text/plain"
echo
date >>/notes/pages

echo "config:   $(cat /etc/greeting)"
echo "env_file: $SHOP_NAME"
echo "tmpfs:    $(wc -l </notes/pages) page(s) by this replica"
echo "user:     $(id -un)"
echo "database: $(wget -qO- http://api:8080/cgi-bin/visit || echo "does not answer")"
