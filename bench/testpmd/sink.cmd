# In the servers' place: counts and drops. "show port stats all" says what arrived.
set fwd rxonly
start
show port stats all
