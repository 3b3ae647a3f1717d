//! Safe access to a few things of the processor that the packet path wants: prefetch, a 16-byte tag
//! match, slices on huge pages and the time-stamp counter.
