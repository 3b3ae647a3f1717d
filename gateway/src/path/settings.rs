//! Settings of the path that may change while it runs: IPVS's sysctls and time-outs.

/// Time-outs of connection entries, in seconds, by state: IPVS's defaults.
#[allow(missing_docs, reason = "one field a state, named as IPVS names them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTimeouts {
    pub none: u32,
    pub established: u32,
    pub syn_sent: u32,
    pub syn_recv: u32,
    pub fin_wait: u32,
    pub time_wait: u32,
    pub close: u32,
    pub close_wait: u32,
    pub last_ack: u32,
    pub listen: u32,
    pub synack: u32,
    pub udp: u32,
}

impl Default for StateTimeouts {
    fn default() -> Self {
        Self {
            none: 2,
            established: 900,
            syn_sent: 120,
            syn_recv: 60,
            fin_wait: 120,
            time_wait: 120,
            close: 10,
            close_wait: 60,
            last_ack: 30,
            listen: 120,
            synack: 120,
            udp: 300,
        }
    }
}

/// IPVS's sysctls (`net.ipv4.vs.*`) that Weir has, with the kernel's defaults, and the time-outs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Not 0: a SYN on an entry in TIME_WAIT or CLOSE is scheduled again. Bit 1: the same for DR and TUN entries in
    /// FIN_WAIT.
    pub conn_reuse_mode: u32,
    /// A packet for a deleted server ends its entry; a SYN also ends one whose server has weight 0.
    pub expire_nodest_conn: bool,
    /// Persistence templates of a quiesced server end.
    pub expire_quiescent_template: bool,
    /// Schedule TCP packets without SYN.
    pub sloppy_tcp: bool,
    /// Schedule SCTP packets without INIT.
    pub sloppy_sctp: bool,
    /// Seconds after which an unused lblc entry expires.
    pub lblc_expiration: u32,
    /// Seconds after which an unused lblcr entry expires.
    pub lblcr_expiration: u32,
    /// NAT: a TCP connection is established once both sides have completed the handshake, as with FULLNAT. IPVS relies
    /// on the client's segments alone.
    pub nat_strict_tcp: bool,
    /// Time-outs by state.
    pub timeouts: StateTimeouts,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            sloppy_tcp: false,
            sloppy_sctp: false,
            lblc_expiration: 86_400,
            lblcr_expiration: 86_400,
            nat_strict_tcp: false,
            timeouts: StateTimeouts::default(),
        }
    }
}
