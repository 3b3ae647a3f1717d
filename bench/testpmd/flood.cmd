# In the clients' place: UDP datagrams of many senders to a virtual service. Addresses and ports are options, see README.md.
# Put in the MAC address of Weir's port ("weirctl status").
set eth-peer 0 02:00:00:00:00:01
set txpkts 60
set fwd txonly
start
