#!/bin/sh
# The front page: who answers behind the name `web`, and what one of them has to say.
echo "Content-Type: text/plain"
echo

echo "$TITLE"
echo
echo "replicas that answered 12 requests:"
for _ in $(seq 12); do
    wget -qO- http://web:8080/cgi-bin/name || echo "no answer"
done | sort | uniq -c
echo
wget -qO- http://web:8080/ || echo "web does not answer"
