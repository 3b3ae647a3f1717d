//! The state of a client's TCP stream that begins with a PROXY header, and which segments may pass.
//!
//! ```text
//! client        seq n+1 ..                 n: the client's initial sequence number
//! server        seq n+1 [header] n+1+H ..  H: the header's length
//! ```
//!
//! The server must receive its first H bytes from the gateway alone. The stream therefore begins at the
//! sequence number of the first SYN with a correct checksum. Until the server has acknowledged the header,
//! the gateway forwards only client segments that begin there, placed behind the header; the client
//! retransmits the others. From then on every number is shifted by H. Nothing is compared with the beginning
//! of the stream any more, since numbers wrap after 4 GiB.
//!
//! A SYN with another sequence number changes nothing by itself. It goes to the server, and the SYN-ACK shows
//! whether a new connection, and so a new stream, begins there. Until the server has answered, the first byte
//! of such a connection is held back.

use weir_api::model::ClientAddress;

use crate::{
    clock::{Tick, Ticks},
    net::{
        Header,
        tcp::{self, TcpHeader},
    },
    path::{ingress::parse::Parsed, verdict::Reason},
    table::session::Direction,
};

/// How long a server may take to answer a SYN with another sequence number.
const PATIENCE: Ticks = Ticks::seconds(3);

/// Version 1 of the header.
const V1: u8 = 1;
/// The session was opened in the middle of a connection, so there is no header.
const MIDDLE: u8 = 2;
/// The stream has begun: a SYN has arrived.
const BEGUN: u8 = 4;
/// The server's SYN-ACK has arrived.
const ANSWERED: u8 = 8;
/// The header was sent.
const SENT: u8 = 16;
/// The server has acknowledged the header.
const ACKNOWLEDGED: u8 = 32;
/// A SYN with another sequence number has arrived.
const ASKED: u8 = 64;

/// The fields of a TCP segment that matter to its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// TCP flags.
    pub flags: u8,
    /// Bytes of payload.
    pub payload: u16,
}

impl Segment {
    /// The segment in the frame `data`; none if the frame doesn't match `p`.
    pub fn of(data: &[u8], p: &Parsed) -> Option<Self> {
        let header = TcpHeader::at(data, p.l4.into())?;
        let headers = u16::from(p.l4.checked_sub(p.l3)?) + header.header_len() as u16;
        Some(Self {
            sequence: header.sequence(),
            acknowledgement: header.acknowledgement(),
            flags: header.flags,
            payload: p.ip_len.checked_sub(headers)?,
        })
    }

    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The sequence space the segment takes, not counting a SYN.
    pub fn len(&self) -> u32 {
        u32::from(self.payload) + u32::from(self.has(tcp::FIN))
    }
}

/// How a client's segment is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A SYN is forwarded without its payload.
    Bare,
    /// Its sequence number is increased by this much.
    Shifted(u32),
    /// It goes behind the header, at this sequence number and without this many bytes of its payload.
    Behind {
        /// The sequence number of the header.
        start: u32,
        /// Bytes to cut off the front of the payload.
        cut: u16,
    },
    /// It is forwarded unchanged: the server isn't told the client's address.
    Untold,
    /// It is dropped.
    Drop(Reason),
}

/// The state of a session's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The sequence number of the header: one more than the client's initial sequence number.
    start: u32,
    /// Where the stream of a SYN with another number would begin, and when that SYN arrived.
    asked: (u32, Tick),
    /// How many bytes behind the header the client had sent when the server acknowledged it.
    reach: u16,
    /// The header's length.
    len: u8,
    flags: u8,
}

impl Stream {
    /// The state before the first segment, which either begins a connection or is from the middle of one.
    pub fn new(how: ClientAddress, begins: bool) -> Self {
        let version = if how == ClientAddress::ProxyV1 { V1 } else { 0 };
        Self { flags: version | if begins { 0 } else { MIDDLE }, ..Self::default() }
    }

    /// Reads the state from two words.
    pub fn unpack([low, high]: [u64; 2]) -> Self {
        Self {
            start: low as u32,
            asked: ((low >> 32) as u32, Tick(high as u32)),
            reach: (high >> 32) as u16,
            len: (high >> 48) as u8,
            flags: (high >> 56) as u8,
        }
    }

    /// Packs the state into two words.
    pub fn pack(self) -> [u64; 2] {
        let (asked, when) = self.asked;
        let low = u64::from(self.start) | u64::from(asked) << 32;
        let high = u64::from(when.0) | u64::from(self.reach) << 32;
        [low, high | u64::from(self.len) << 48 | u64::from(self.flags) << 56]
    }

    fn is(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The header's version.
    pub fn version(&self) -> ClientAddress {
        if self.is(V1) { ClientAddress::ProxyV1 } else { ClientAddress::ProxyV2 }
    }

    /// The sequence number of the header, as the server counts.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// A segment without payload that the client would send next; a SYN is the same SYN again.
    pub fn next(&self, flags: u8) -> Segment {
        let sequence = self.start.wrapping_sub(u32::from(flags & tcp::SYN != 0));
        Segment { sequence, acknowledgement: 0, flags, payload: 0 }
    }

    /// Whether a client's segment needs a correct checksum: it may begin a connection, or goes behind the
    /// header.
    pub fn is_weighed(&self, s: &Segment) -> bool {
        s.has(tcp::SYN) || self.flags & (ACKNOWLEDGED | MIDDLE) == 0
    }

    /// Takes a client's segment, whose checksum is correct if [`Self::is_weighed`]. `len` is the header's
    /// length.
    pub fn request(&mut self, s: &Segment, len: u8, now: Tick) -> Step {
        if s.has(tcp::SYN) {
            return self.syn(s, len, now);
        }
        if self.is(ACKNOWLEDGED) {
            let at = s.sequence.wrapping_add(self.len.into());
            return self.unless_asked(Step::Shifted(self.len.into()), at, s.len(), now);
        }
        if self.is(MIDDLE) {
            return self.unless_asked(Step::Untold, s.sequence, s.len(), now);
        }
        if !self.is(BEGUN) {
            return Step::Drop(Reason::ProxyWaits);
        }
        if s.has(tcp::RST) {
            // The header's arrival isn't confirmed, but likely.
            return match s.sequence.wrapping_sub(self.start) as i32 {
                0 if !self.is(SENT) => Step::Shifted(0),
                0.. => Step::Shifted(self.len.into()),
                _ => Step::Drop(Reason::ProxyWaits),
            };
        }
        let before = self.start.wrapping_sub(s.sequence);
        let probe = before == 1 && s.len() == 0;
        if !s.has(tcp::ACK) || !(probe || before <= s.payload.into()) {
            return Step::Drop(Reason::ProxyWaits);
        }
        // Smaller than the payload's length, which has 16 bits.
        let cut = if probe { 0 } else { before as u16 };
        if cut != 0 && s.has(tcp::URG) {
            // The urgent pointer would have no place to point to.
            return Step::Drop(Reason::ProxyWaits);
        }
        let behind = s.len() - u32::from(cut);
        let step = Step::Behind { start: self.start, cut };
        let step = self.unless_asked(step, self.start, behind + u32::from(self.len), now);
        if matches!(step, Step::Behind { .. }) {
            self.reach = self.reach.max(u16::try_from(behind).unwrap_or(u16::MAX));
        }
        step
    }

    /// Takes a SYN.
    fn syn(&mut self, s: &Segment, len: u8, now: Tick) -> Step {
        if s.flags & (tcp::ACK | tcp::RST | tcp::FIN) != 0 {
            return Step::Drop(Reason::SecondSyn);
        }
        let start = s.sequence.wrapping_add(1);
        if self.flags & (BEGUN | MIDDLE) == 0 {
            self.begin(start, len);
            return Step::Bare;
        }
        let again = self.is(BEGUN) && start == self.start;
        if again && !self.is(ACKNOWLEDGED) {
            return Step::Bare;
        }
        let waits = self.is(ANSWERED) && !self.is(ACKNOWLEDGED);
        let (asked, when) = self.asked;
        let other = self.is(ASKED) && asked != start && now.since(when) < PATIENCE;
        if again || waits || other {
            return Step::Drop(Reason::SecondSyn);
        }
        self.asked = (start, now);
        self.flags |= ASKED;
        // A connection that the session joined in the middle has no header length yet.
        self.len = if self.is(BEGUN) { self.len } else { len };
        Step::Bare
    }

    fn begin(&mut self, start: u32, len: u8) {
        *self = Self { start, len, flags: self.flags & V1 | BEGUN, ..Self::default() };
    }

    /// Returns the step, unless the segment, `len` long at the server's number `at`, contains the byte that
    /// would be the first one after another SYN.
    fn unless_asked(&self, step: Step, at: u32, len: u32, now: Tick) -> Step {
        let (asked, when) = self.asked;
        let covers = asked.wrapping_sub(at) < len;
        if self.is(ASKED) && covers && now.since(when) < PATIENCE {
            return Step::Drop(Reason::SecondSyn);
        }
        step
    }

    /// The shift of the sequence number for a fragmented segment, given its first fragment. The segment
    /// passes only where it can change nothing and where none of its bytes, wherever it ends, can be the
    /// first of a stream.
    pub fn piece(&self, s: &Segment, direction: Direction, now: Tick) -> Option<u32> {
        if s.has(tcp::SYN) {
            return None;
        }
        if direction == Direction::Reply {
            return Some(0);
        }
        let whole = Segment { payload: u16::MAX, ..*s };
        let mut after = *self;
        match after.request(&whole, 0, now) {
            Step::Shifted(by) if self.is(ACKNOWLEDGED) => Some(by),
            Step::Untold => Some(0),
            _ => None,
        }
    }

    /// Notes that the header was sent.
    pub fn sent(&mut self) {
        self.flags |= SENT;
    }

    /// Whether a server's segment with a correct checksum may pass. A SYN-ACK must answer a SYN that counts:
    /// from any other, the client would learn numbers that let it write where the header belongs.
    pub fn expects(&self, s: &Segment) -> bool {
        let first = self.is(BEGUN) && s.acknowledgement == self.start;
        let other = self.is(ASKED) && s.acknowledgement == self.asked.0;
        !s.has(tcp::SYN) || (s.has(tcp::ACK) && (first || other))
    }

    /// Whether a server's segment changes the stream, provided its checksum is correct.
    pub fn would_change(&self, s: &Segment) -> bool {
        let mut after = *self;
        after.reply(s);
        after != *self
    }

    /// Takes a server's segment with a correct checksum.
    pub fn reply(&mut self, s: &Segment) {
        if !s.has(tcp::ACK) || s.has(tcp::RST) {
            return;
        }
        let number = s.acknowledgement;
        if s.has(tcp::SYN) {
            if self.is(ASKED) && number == self.asked.0 {
                let len = self.len;
                self.begin(number, len);
                self.flags |= ANSWERED;
            } else if self.is(BEGUN) && number == self.start {
                self.flags |= ANSWERED;
            }
            return;
        }
        let len = u32::from(self.len);
        let taken = len..=len + u32::from(self.reach);
        if self.is(BEGUN | SENT) && taken.contains(&number.wrapping_sub(self.start)) {
            self.flags |= ANSWERED | ACKNOWLEDGED;
        }
    }

    /// Whether the client's segments keep their length: the server has acknowledged the header, or there is
    /// none.
    pub fn is_settled(&self) -> bool {
        self.flags & (ACKNOWLEDGED | MIDDLE) != 0
    }

    /// Converts a number from the server's count to the client's.
    pub fn back(&self, number: u32) -> u32 {
        let len = u32::from(self.len);
        if self.is(ACKNOWLEDGED) {
            return number.wrapping_sub(len);
        }
        match number.wrapping_sub(self.start) as i32 {
            into if !self.is(BEGUN) || into <= 0 => number,
            into if (into as u32) < len => self.start,
            _ => number.wrapping_sub(len),
        }
    }

    /// Converts a number that the server has acknowledged from the client's count to the server's.
    pub fn forth(&self, number: u32) -> u32 {
        if self.is(ACKNOWLEDGED) { number.wrapping_add(self.len.into()) } else { number }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const H: u8 = 28;

    fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u16) -> Segment {
        Segment { sequence, acknowledgement, flags, payload }
    }

    fn syn(n: u32) -> Segment {
        segment(tcp::SYN, n, 0, 0)
    }

    fn ack(number: u32) -> Segment {
        segment(tcp::ACK, 1, number, 0)
    }

    /// A stream whose header was sent with this many bytes behind it.
    fn told(start: u32, payload: u16) -> Stream {
        let mut stream = Stream::new(ClientAddress::ProxyV2, true);
        assert_eq!(stream.request(&syn(start.wrapping_sub(1)), H, Tick(0)), Step::Bare);
        let data = segment(tcp::ACK, start, 1, payload);
        assert_eq!(stream.request(&data, 0, Tick(0)), Step::Behind { start, cut: 0 });
        stream.sent();
        stream
    }

    #[test]
    fn what_is_known_survives_being_packed() {
        let mut stream = told(u32::MAX, u16::MAX);
        stream.asked = (0x1234_5678, Tick(0x9abc_def0));
        stream.flags |= V1 | ASKED;
        assert_eq!(Stream::unpack(stream.pack()), stream);
    }

    #[test]
    fn numbers_go_there_and_back_wherever_the_stream_begins() {
        for start in [1001, u32::MAX - 5, 0, 1 << 31] {
            let mut stream = told(start, 100);
            let at = |n: u32| start.wrapping_add(n);
            assert_eq!((stream.back(at(0)), stream.back(at(27)), stream.back(at(28))), (at(0), at(0), at(0)));
            assert_eq!(
                (stream.back(at(29)), stream.back(start.wrapping_sub(1))),
                (at(1), start.wrapping_sub(1))
            );
            stream.reply(&ack(at(28)));
            // All kinds of numbers, including a wrap.
            for n in [0, 1, 28, 1 << 31, (1 << 31) + 1, u32::MAX - 27, u32::MAX] {
                assert_eq!(
                    (stream.back(at(n).wrapping_add(28)), stream.forth(at(n))),
                    (at(n), at(n).wrapping_add(28))
                );
                let data = segment(tcp::ACK, at(n), 1, 10);
                assert_eq!(stream.request(&data, 0, Tick(0)), Step::Shifted(28));
            }
        }
    }

    #[test]
    fn the_server_acknowledges_the_header_and_no_more_than_was_sent() {
        for (number, taken) in [(1028, false), (1029, true), (1129, true), (1130, false)] {
            let mut stream = told(1001, 100);
            stream.reply(&ack(number));
            assert_eq!(stream.is(ACKNOWLEDGED), taken, "{number}");
        }
        let mut stream = told(1001, 100);
        stream.reply(&segment(tcp::ACK | tcp::RST, 1, 1029, 0));
        stream.reply(&segment(0, 1, 1029, 0));
        assert!(
            !stream.is(ACKNOWLEDGED) && stream.would_change(&ack(1029)) && !stream.would_change(&ack(1028))
        );
        let mut unsent = Stream::new(ClientAddress::ProxyV2, true);
        unsent.request(&syn(1000), H, Tick(0));
        unsent.reply(&ack(1029));
        assert!(!unsent.is(ACKNOWLEDGED));
    }

    #[test]
    fn a_syn_with_another_number_may_come_again_and_its_answer_begins_a_stream() {
        let (other, third) = (syn(6999), syn(7999));
        let mut stream = told(1001, 100);
        stream.reply(&ack(1029));
        assert_eq!(stream.request(&other, H, Tick(0)), Step::Bare);
        assert_eq!(stream.request(&third, H, Tick(PATIENCE.0 - 1)), Step::Drop(Reason::SecondSyn));
        assert_eq!(stream.request(&other, H, Tick(PATIENCE.0 - 1)), Step::Bare);
        assert_eq!(stream.request(&third, H, Tick(2 * PATIENCE.0 - 2)), Step::Drop(Reason::SecondSyn));
        let answer = |number| segment(tcp::SYN | tcp::ACK, 1, number, 0);
        // The first SYN's answer, repeated, leaves the stream unchanged.
        let before = stream;
        stream.reply(&answer(1001));
        assert_eq!(
            Stream { flags: stream.flags & !ANSWERED, ..stream },
            Stream { flags: before.flags & !ANSWERED, ..before }
        );
        assert!(
            stream.expects(&answer(1001)) && stream.expects(&answer(7000)) && !stream.expects(&answer(8000))
        );
        stream.reply(&answer(7000));
        assert_eq!(
            (stream.start, stream.len, stream.is(ANSWERED), stream.is(SENT | ACKNOWLEDGED)),
            (7000, H, true, false)
        );
        // From then on there is only one stream: another SYN would change it before the header has arrived.
        assert_eq!(stream.request(&third, H, Tick(9 * PATIENCE.0)), Step::Drop(Reason::SecondSyn));
        let mut stream = told(1001, 100);
        stream.reply(&ack(1029));
        assert_eq!(stream.request(&other, H, Tick(0)), Step::Bare);
        assert_eq!(stream.request(&third, H, Tick::at(PATIENCE)), Step::Bare, "patience has an end");
    }

    #[test]
    fn a_connection_on_one_that_was_under_way_has_its_own_number_and_length() {
        // Its first byte has the number 0, like that of a stream that hasn't begun.
        let mut stream = Stream::new(ClientAddress::ProxyV2, false);
        assert_eq!(stream.request(&syn(u32::MAX), H, Tick(0)), Step::Bare);
        let answer = segment(tcp::SYN | tcp::ACK, 1, 0, 0);
        assert!(stream.expects(&answer));
        stream.reply(&answer);
        let data = segment(tcp::ACK, 0, 1, 10);
        assert_eq!(stream.request(&data, 0, Tick(0)), Step::Behind { start: 0, cut: 0 });
        stream.sent();
        stream.reply(&ack(H.into()));
        assert_eq!(stream.request(&data, 0, Tick(0)), Step::Shifted(H.into()));
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// A client's SYN, which may get lost behind the gateway.
        Syn(u32, bool),
        /// A client's data, FIN or reset.
        Data(Segment),
        /// The same as the first fragment of a segment of any length.
        Piece(Segment),
        /// The server's SYN-ACK, or its acknowledgement of this many bytes behind the header.
        Answer(u32),
        /// The server silently ends its connection.
        Endpoints,
        Time(u32),
    }

    /// A server's connection.
    #[derive(Clone, Copy, Debug, Default)]
    struct Server {
        begins: u32,
        /// Its SYN-ACK has passed the gateway.
        answered: bool,
        header: bool,
        /// It accepts no more of what it has acknowledged.
        acknowledged: bool,
    }

    fn event() -> impl Strategy<Value = Event> {
        let number = || prop_oneof![995u32..1040, 1095u32..1135, Just(1 << 31), Just(u32::MAX)];
        let flags = prop_oneof![Just(tcp::ACK), Just(tcp::ACK | tcp::FIN), Just(tcp::RST), Just(0)];
        let segments =
            || (flags.clone(), number(), 0u16..60).prop_map(|(flags, n, len)| segment(flags, n, 1, len));
        prop_oneof![
            (number(), any::<bool>()).prop_map(|(n, kept)| Event::Syn(n, kept)),
            segments().prop_map(Event::Data),
            segments().prop_map(Event::Piece),
            (0u32..70).prop_map(Event::Answer),
            Just(Event::Endpoints),
            (0u32..400).prop_map(Event::Time),
        ]
    }

    proptest! {
        /// In any order of segments, no byte of the client's ends up where the server looks for the header. A
        /// SYN-ACK that hasn't passed the gateway can't be acknowledged, so the server accepts nothing before
        /// that.
        #[test]
        fn no_client_writes_the_header(
            middle in any::<bool>(),
            events in prop::collection::vec(event(), 1..60),
        ) {
            let mut stream = Stream::new(ClientAddress::ProxyV2, !middle);
            let (mut server, mut now) = (None::<Server>, Tick(0));
            for event in events {
                match event {
                    Event::Syn(n, kept) => {
                        let passes = stream.request(&syn(n), H, now) == Step::Bare;
                        if passes && kept && server.is_none() {
                            server = Some(Server { begins: n.wrapping_add(1), ..Server::default() });
                        }
                    }
                    Event::Data(s) => {
                        let (at, len) = match stream.request(&s, 0, now) {
                            Step::Shifted(by) => (s.sequence.wrapping_add(by), s.payload),
                            Step::Untold => (s.sequence, s.payload),
                            Step::Behind { start, cut } => {
                                stream.sent();
                                if let Some(server) = server.as_mut().filter(|s| s.answered && s.begins == start) {
                                    server.header = true;
                                }
                                (start.wrapping_add(H.into()), s.payload - cut)
                            }
                            Step::Drop(_) | Step::Bare => continue,
                        };
                        let looks = |server: &Server| server.answered && !server.acknowledged;
                        let Some(server) = server.filter(looks).filter(|_| s.flags & tcp::RST == 0) else { continue };
                        for n in 0..u32::from(len) {
                            let place = at.wrapping_add(n).wrapping_sub(server.begins);
                            prop_assert!(place >= H.into(), "{s:?} at {place} of {stream:?}");
                        }
                    }
                    Event::Piece(s) => {
                        let Some(by) = stream.piece(&s, Direction::Request, now) else { continue };
                        let looks = |server: &Server| server.answered && !server.acknowledged;
                        let Some(server) = server.filter(looks).filter(|_| s.flags & tcp::RST == 0) else { continue };
                        let to_header = server.begins.wrapping_sub(s.sequence.wrapping_add(by));
                        prop_assert!(to_header >= u16::MAX.into(), "a fragment of {s:?} of {stream:?}");
                    }
                    Event::Answer(more) => {
                        let Some(server) = &mut server else { continue };
                        if server.header {
                            stream.reply(&ack(server.begins.wrapping_add(u32::from(H) + more)));
                            server.acknowledged = true;
                        } else if stream.expects(&segment(tcp::SYN | tcp::ACK, 1, server.begins, 0)) {
                            stream.reply(&segment(tcp::SYN | tcp::ACK, 1, server.begins, 0));
                            server.answered = true;
                        }
                    }
                    Event::Endpoints => server = None,
                    Event::Time(ticks) => now = now.after(Ticks(ticks)),
                }
            }
        }
    }
}
