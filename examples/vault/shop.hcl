# What pods of the role "shop" may read. Every policy of its own also has
# "default", which allows to renew and to revoke what one's own token holds.
path "secret/data/shop/*" {
  capabilities = ["read"]
}

# Not needed, but it makes polls cheap: versions are looked at, not values.
path "secret/metadata/shop/*" {
  capabilities = ["read"]
}

path "database/creds/shop" {
  capabilities = ["read"]
}

path "pki/issue/shop" {
  capabilities = ["update"]
}
