//! ipvsadm's options and commands, and which go together.

/// What an option on the command line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A command; ipvsadm wants it first.
    Command(Command),
    /// `--start-daemon`, with its argument.
    StartDaemon,
    /// `--stop-daemon`, with its argument.
    StopDaemon,
    /// `-h`
    Help,
    /// `-v`
    Version,
    /// `-t`
    Tcp,
    /// `-u`
    Udp,
    /// `--sctp-service`
    Sctp,
    /// `-f`
    Mark,
    /// `-6`
    Ipv6,
    /// `-g`
    Route,
    /// `-i`
    Tunnel,
    /// `-m`
    Masquerade,
    /// `--nat`
    Nat,
    /// `--fullnat`, and `-b` alone on server commands.
    FullNat,
    /// `--sort`, which does nothing.
    Sort,
    /// An option that is nothing but itself.
    Plain(Opt),
}

/// Options in the order in which ipvsadm checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are ipvsadm's")]
pub(super) enum Opt {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    Server,
    Forward,
    Weight,
    Upper,
    Lower,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    Ops,
    Engine,
    SchedFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    LocalAddress,
    Interface,
}

impl Opt {
    /// All, in checking order.
    pub const ALL: [Self; 36] = {
        [
            Self::Numeric,
            Self::Connection,
            Self::Service,
            Self::Scheduler,
            Self::Persistent,
            Self::Netmask,
            Self::Server,
            Self::Forward,
            Self::Weight,
            Self::Upper,
            Self::Lower,
            Self::McastInterface,
            Self::Timeout,
            Self::Daemon,
            Self::Stats,
            Self::Rate,
            Self::Thresholds,
            Self::PersistentConn,
            Self::NoSort,
            Self::SyncId,
            Self::Exact,
            Self::Ops,
            Self::Engine,
            Self::SchedFlags,
            Self::McastGroup,
            Self::McastPort,
            Self::McastTtl,
            Self::SyncMaxlen,
            Self::TunInfo,
            Self::TunType,
            Self::TunPort,
            Self::TunNoCsum,
            Self::TunCsum,
            Self::TunRemCsum,
            Self::LocalAddress,
            Self::Interface,
        ]
    };

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 36] = [
            "numeric",
            "connection",
            "service-address",
            "scheduler",
            "persistent",
            "netmask",
            "real-server",
            "forwarding-method",
            "weight",
            "u-threshold",
            "l-threshold",
            "mcast-interface",
            "timeout",
            "daemon",
            "stats",
            "rate",
            "thresholds",
            "persistent-conn",
            "nosort",
            "syncid",
            "exact",
            "ops",
            "pe",
            "sched-flags",
            "mcast-group",
            "mcast-port",
            "mcast-ttl",
            "sync-maxlen",
            "tun-info",
            "tun-type",
            "tun-port",
            "tun-nocsum",
            "tun-csum",
            "tun-remcsum",
            "local-address",
            "ifname",
        ];
        NAMES[self as usize]
    }
}

/// A set of options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OptSet(u64);

impl OptSet {
    /// Adds an option; `false` if it was there already.
    pub fn insert(&mut self, option: Opt) -> bool {
        let new = !self.has(option);
        self.0 |= 1 << option as u8;
        new
    }

    /// Whether the option is there.
    pub fn has(self, option: Opt) -> bool {
        self.0 & (1 << option as u8) != 0
    }

    /// Whether any of the options is there.
    pub fn any(self, options: &[Opt]) -> bool {
        options.iter().any(|&o| self.has(o))
    }
}

/// Commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are ipvsadm's")]
pub(super) enum Command {
    AddService,
    EditService,
    DeleteService,
    Flush,
    List,
    AddServer,
    DeleteServer,
    EditServer,
    Set,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
    AddLocal,
    DeleteLocal,
    ListLocal,
}

/// Which options a command takes; all others are illegal with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Legal {
    /// The command's name in messages.
    pub name: &'static str,
    /// Must be there.
    pub required: &'static [Opt],
    /// May be there.
    pub optional: &'static [Opt],
    /// At most one of these.
    pub exclusive: &'static [Opt],
}

impl Command {
    /// Its name and options.
    pub fn legal(self) -> Legal {
        use Opt as O;
        const SERVICE: &[Opt] = &[O::Scheduler, O::Persistent, O::Netmask, O::Ops, O::Engine, O::SchedFlags];
        const SERVER: &[Opt] = &[
            O::Forward,
            O::Weight,
            O::Upper,
            O::Lower,
            O::TunType,
            O::TunPort,
            O::TunNoCsum,
            O::TunCsum,
            O::TunRemCsum,
        ];
        const LIST: &[Opt] = &[
            O::Numeric,
            O::Stats,
            O::Rate,
            O::Thresholds,
            O::PersistentConn,
            O::NoSort,
            O::SyncId,
            O::Exact,
            O::TunInfo,
        ];
        const DAEMON: &[Opt] =
            &[O::McastInterface, O::SyncId, O::McastGroup, O::McastPort, O::McastTtl, O::SyncMaxlen];
        let (name, required, optional, exclusive): (_, &[Opt], &[Opt], &[Opt]) = match self {
            Self::AddService => ("add-service", &[O::Service], SERVICE, &[]),
            Self::EditService => ("edit-service", &[O::Service], SERVICE, &[]),
            Self::DeleteService => ("delete-service", &[O::Service], &[], &[]),
            Self::Flush => ("flush", &[], &[], &[]),
            Self::List => ("list", &[], LIST, &[O::Connection, O::Service, O::Timeout, O::Daemon]),
            Self::AddServer => ("add-server", &[O::Service, O::Server], SERVER, &[]),
            Self::DeleteServer => ("delete-server", &[O::Service, O::Server], &[], &[]),
            Self::EditServer => ("edit-server", &[O::Service, O::Server], SERVER, &[]),
            Self::Set => ("set", &[], &[], &[]),
            Self::StartDaemon => ("start-daemon", &[], DAEMON, &[]),
            Self::StopDaemon => ("stop-daemon", &[], &[O::SyncId], &[]),
            Self::Restore => ("restore", &[], &[], &[]),
            Self::Save => ("save", &[], &[O::Numeric], &[]),
            Self::Zero => ("zero", &[], &[O::Service], &[]),
            Self::AddLocal => ("add-laddr", &[O::Service, O::LocalAddress], &[O::Interface], &[]),
            Self::DeleteLocal => ("del-laddr", &[O::Service, O::LocalAddress], &[O::Interface], &[]),
            Self::ListLocal => ("get-laddr", &[O::Service], &[O::Numeric], &[]),
        };
        Legal { name, required, optional, exclusive }
    }
}

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    /// No.
    None,
    /// Yes, even one that begins with a dash.
    Required,
    /// If something follows that doesn't begin with a dash.
    Optional,
}

/// How an option is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling {
    /// `--long`
    pub long: &'static str,
    /// `-s`
    pub short: Option<char>,
    /// Its argument.
    pub argument: Argument,
    /// What it stands for.
    pub tag: Tag,
}

const fn plain(long: &'static str, short: Option<char>, argument: Argument, opt: Opt) -> Spelling {
    Spelling { long, short, argument, tag: Tag::Plain(opt) }
}

const fn tagged(long: &'static str, short: Option<char>, argument: Argument, tag: Tag) -> Spelling {
    Spelling { long, short, argument, tag }
}

const fn command(long: &'static str, short: Option<char>, command: Command) -> Spelling {
    Spelling { long, short, argument: Argument::None, tag: Tag::Command(command) }
}

use Argument::{None as No, Optional, Required};

/// ipvsadm 1.31's.
pub(super) const SPELLINGS: &[Spelling] = &[
    command("add-service", Some('A'), Command::AddService),
    command("edit-service", Some('E'), Command::EditService),
    command("delete-service", Some('D'), Command::DeleteService),
    command("clear", Some('C'), Command::Flush),
    command("list", Some('L'), Command::List),
    command("list", Some('l'), Command::List),
    command("zero", Some('Z'), Command::Zero),
    command("add-server", Some('a'), Command::AddServer),
    command("edit-server", Some('e'), Command::EditServer),
    command("delete-server", Some('d'), Command::DeleteServer),
    command("set", None, Command::Set),
    command("restore", Some('R'), Command::Restore),
    command("save", Some('S'), Command::Save),
    tagged("help", Some('h'), No, Tag::Help),
    tagged("version", Some('v'), No, Tag::Version),
    tagged("start-daemon", None, Required, Tag::StartDaemon),
    tagged("stop-daemon", None, Required, Tag::StopDaemon),
    tagged("tcp-service", Some('t'), Required, Tag::Tcp),
    tagged("udp-service", Some('u'), Required, Tag::Udp),
    tagged("sctp-service", None, Required, Tag::Sctp),
    tagged("fwmark-service", Some('f'), Required, Tag::Mark),
    tagged("ipv6", Some('6'), No, Tag::Ipv6),
    tagged("gatewaying", Some('g'), No, Tag::Route),
    tagged("ipip", Some('i'), No, Tag::Tunnel),
    tagged("masquerading", Some('m'), No, Tag::Masquerade),
    tagged("sort", None, No, Tag::Sort),
    plain("scheduler", Some('s'), Required, Opt::Scheduler),
    plain("persistent", Some('p'), Optional, Opt::Persistent),
    plain("netmask", Some('M'), Required, Opt::Netmask),
    plain("real-server", Some('r'), Required, Opt::Server),
    plain("weight", Some('w'), Required, Opt::Weight),
    plain("u-threshold", Some('x'), Required, Opt::Upper),
    plain("l-threshold", Some('y'), Required, Opt::Lower),
    plain("numeric", Some('n'), No, Opt::Numeric),
    plain("connection", Some('c'), No, Opt::Connection),
    plain("mcast-interface", None, Required, Opt::McastInterface),
    plain("syncid", None, Required, Opt::SyncId),
    plain("timeout", None, No, Opt::Timeout),
    plain("daemon", None, No, Opt::Daemon),
    plain("stats", None, No, Opt::Stats),
    plain("rate", None, No, Opt::Rate),
    plain("thresholds", None, No, Opt::Thresholds),
    plain("persistent-conn", None, No, Opt::PersistentConn),
    plain("nosort", None, No, Opt::NoSort),
    plain("exact", Some('X'), No, Opt::Exact),
    plain("ops", Some('o'), No, Opt::Ops),
    plain("pe", None, Required, Opt::Engine),
    plain("sched-flags", Some('b'), Required, Opt::SchedFlags),
    plain("mcast-group", None, Required, Opt::McastGroup),
    plain("mcast-port", None, Required, Opt::McastPort),
    plain("mcast-ttl", None, Required, Opt::McastTtl),
    plain("sync-maxlen", None, Required, Opt::SyncMaxlen),
    plain("tun-info", None, No, Opt::TunInfo),
    plain("tun-type", None, Required, Opt::TunType),
    plain("tun-port", None, Required, Opt::TunPort),
    plain("tun-nocsum", None, No, Opt::TunNoCsum),
    plain("tun-csum", None, No, Opt::TunCsum),
    plain("tun-remcsum", None, No, Opt::TunRemCsum),
];

/// Known besides on lines about local addresses.
pub(super) const LOCAL_SPELLINGS: &[Spelling] = &[
    command("add-laddr", Some('P'), Command::AddLocal),
    command("del-laddr", Some('Q'), Command::DeleteLocal),
    command("get-laddr", Some('G'), Command::ListLocal),
    plain("local-address", Some('z'), Required, Opt::LocalAddress),
    plain("ifname", Some('F'), Required, Opt::Interface),
];

/// Known besides on lines that add or edit a server. `-b` alone means the same there, see the scanner.
pub(super) const SERVER_SPELLINGS: &[Spelling] = &[tagged("fullnat", None, No, Tag::FullNat)];

/// Known besides on such lines, unless the program has one of ipvsadm's names: these have `-m` for it.
pub(super) const OWN_SERVER_SPELLINGS: &[Spelling] =
    &[tagged("fullnat", None, No, Tag::FullNat), tagged("nat", None, No, Tag::Nat)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_in_order() {
        for (i, option) in Opt::ALL.into_iter().enumerate() {
            assert_eq!(option as usize, i);
        }
        assert_eq!(Opt::TunRemCsum.name(), "tun-remcsum");
    }

    #[test]
    fn a_set_notices_repetition() {
        let mut set = OptSet::default();
        assert!(set.insert(Opt::TunRemCsum));
        assert!(!set.insert(Opt::TunRemCsum));
        assert!(set.any(&[Opt::Stats, Opt::TunRemCsum]));
        assert!(!set.any(&[Opt::Stats]));
    }
}
