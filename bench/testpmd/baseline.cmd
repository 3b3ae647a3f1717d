# In Weir's place, on its NICs: swaps MAC addresses, IP addresses and ports of every packet. What it forwards is what
# machine and NICs allow.
set fwd 5tswap
set burst 32
start
