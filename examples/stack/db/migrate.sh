# Prepares the database; a second run changes nothing.
exec wget -qO- --post-file=/run/secrets/db_password 'http://db:8080/cgi-bin/query?migrate'
