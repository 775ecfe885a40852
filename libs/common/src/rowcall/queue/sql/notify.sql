select pg_notify(n.channel, n.payload) from unnest(%(channel)s, %(payload)s) as n (channel, payload)
