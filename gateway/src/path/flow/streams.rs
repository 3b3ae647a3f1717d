//! The state of all sessions with PROXY, two words each: for streams that of [`super::stream`], for datagrams the
//! path MTU from a router's ICMP error and its time.

use super::stream::Stream;
use crate::{clock::Tick, table::path_mtu::LIFETIME};

/// The streams of all sessions, and the ways of their datagrams. The memory isn't touched before a session of a service with PROXY is opened.
pub(crate) struct Streams(Vec<[u64; 2]>);

impl Streams {
    /// Room for the sessions of a worker.
    pub fn new(sessions: usize) -> Self {
        Self(vec![[0; 2]; sessions])
    }

    /// A session's; one without header if there is no such session.
    pub fn get(&self, session: u32) -> Stream {
        self.0.get(session as usize).map_or_else(Stream::default, |&words| Stream::unpack(words))
    }

    /// Takes the place of what was known, and of what an earlier session in the same place left.
    pub fn set(&mut self, session: u32, stream: Stream) {
        if let Some(words) = self.0.get_mut(session as usize) {
            *words = stream.pack();
        }
    }

    /// What a session's datagrams may have on the way to an IPv6 server, header and all, if a router has told.
    pub fn path_mtu(&self, session: u32, now: Tick) -> Option<u16> {
        let &[mtu, moment] = self.0.get(session as usize)?;
        (mtu != 0 && now.since(Tick(moment as u32)) < LIFETIME).then_some(mtu as u16)
    }

    /// Notes what a router has told of the way of a session's datagrams, unless it is known to take less.
    pub fn learn_path_mtu(&mut self, session: u32, mtu: u16, now: Tick) {
        if self.path_mtu(session, now).is_some_and(|known| known < mtu) {
            return;
        }
        if let Some([low, high]) = self.0.get_mut(session as usize) {
            *low = mtu.into();
            *high = *high & !u64::from(u32::MAX) | u64::from(now.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_api::model::ClientAddress;

    use super::*;

    #[test]
    fn there_is_one_for_each_session() {
        let mut streams = Streams::new(2);
        let stream = Stream::new(ClientAddress::ProxyV1, true);
        streams.set(1, stream);
        streams.set(2, stream);
        let of = [0, 1, 2].map(|n| streams.get(n));
        assert_eq!(of, [Stream::default(), stream, Stream::default()]);
    }

    #[test]
    fn a_way_is_known_for_its_time_and_only_becomes_narrower() {
        let mut streams = Streams::new(1);
        let stream = Stream::new(ClientAddress::ProxyV2, false);
        streams.set(0, stream);
        let (begin, end) = (Tick(9), Tick(9).after(LIFETIME));
        assert_eq!((streams.path_mtu(0, begin), streams.path_mtu(1, begin)), (None, None));
        for (told, known) in [(1400, 1400), (1401, 1400), (1280, 1280)] {
            streams.learn_path_mtu(0, told, begin);
            assert_eq!(streams.path_mtu(0, Tick(end.0 - 1)), Some(known));
        }
        assert_eq!((streams.path_mtu(0, end), streams.get(0).version()), (None, stream.version()));
        streams.learn_path_mtu(0, 1500, end);
        assert_eq!(streams.path_mtu(0, end), Some(1500));
        streams.set(0, stream);
        assert_eq!(streams.path_mtu(0, end), None, "another session's");
    }
}
