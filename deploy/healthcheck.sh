#!/bin/bash
# Asks /healthz of the role in this container; needs nothing but bash.
address=${FLEETSCORE_HTTP:-127.0.0.1:8080}
exec 3<>"/dev/tcp/127.0.0.1/${address##*:}" || exit 1
printf 'GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r _ status _ <&3
[ "$status" = 200 ]
