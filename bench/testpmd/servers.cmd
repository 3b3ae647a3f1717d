# In the servers' place: answers every datagram to where it came from, so that replies go back through Weir.
set fwd 5tswap
start
