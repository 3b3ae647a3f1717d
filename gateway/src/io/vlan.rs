//! VLANs of a device as ports, between the devices and the stages rx and tx: removes tags from received frames and
//! adds them to sent ones (IEEE 802.1Q).
//!
//! ```text
//! device 0 --+-- tag 100: port 0 "wan"
//!            +-- tag 200: port 1 "lan"
//! device 1 ----- no tag:  port 2 "dmz"    passed through
//! ```
//!
//! The path above doesn't know about tags. A port whose device has no VLANs costs a branch per burst. The first port of
//! a shared device polls it and puts the other ports' frames into their `waiting`, which is emptied in the same round.
//! If a device has an untagged port, that port gets every frame that isn't for another port, including unknown VLANs
//! with their tags; otherwise such a frame is dropped and counted.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::unfinished;
use crate::path::verdict::{PathCounters, Reason, Verdict};
use crate::{
    io::{Burst, Frame, Hand, Io, PortId, PortPlace},
    net::{
        Header,
        ethernet::{EthernetHeader, VlanTag, ether_type},
    },
};

/// The length of the two MAC addresses in front of a tag.
const ADDRESSES: usize = 12;

/// A port with a VLAN, or one that shares its device with such a port.
struct Lane<F> {
    vlan: Option<u16>,
    /// Whether it polls the device.
    first: bool,
    /// Received frames on their way to the path.
    waiting: Burst<F>,
    /// Tagged frames on their way to the device.
    leaving: Burst<F>,
}

/// Ports over devices, some of them VLANs.
pub struct VlanIo<I: Io> {
    io: I,
    devices: Vec<PortId>,
    lanes: Vec<Option<Box<Lane<I::Frame>>>>,
    /// Whether frames from a device may be unfinished, by device.
    unfinished: Vec<bool>,
    counters: Arc<PathCounters>,
}

impl<I: Io> VlanIo<I> {
    /// Ports at `places` over the devices of `io`; lost frames are counted in `counters`.
    #[must_use]
    pub fn new(io: I, places: &[PortPlace], counters: Arc<PathCounters>) -> Self {
        let lane = |(n, place): (usize, &PortPlace)| {
            let on_it = |p: &&PortPlace| p.device == place.device;
            let plain = places.iter().filter(on_it).all(|p| p.vlan.is_none());
            let first = !places.iter().take(n).any(|p| p.device == place.device);
            let (waiting, leaving) = (ArrayVec::new(), ArrayVec::new());
            (!plain).then(|| Box::new(Lane { vlan: place.vlan, first, waiting, leaving }))
        };
        let lanes = places.iter().enumerate().map(lane).collect();
        let devices = places.iter().map(|p| PortId(p.device)).collect();
        Self { io, devices, lanes, unfinished: Vec::new(), counters }
    }

    /// The same, but completes frames of these devices ([`super::unfinished`]); one entry per device.
    #[must_use]
    pub fn finishing(mut self, unfinished: Vec<bool>) -> Self {
        for (lane, device) in self.lanes.iter_mut().zip(&self.devices) {
            if unfinished.get(device.index()) == Some(&true) && lane.is_none() {
                let (waiting, leaving) = (ArrayVec::new(), ArrayVec::new());
                *lane = Some(Box::new(Lane { vlan: None, first: true, waiting, leaving }));
            }
        }
        self.unfinished = unfinished;
        self
    }

    /// The devices below.
    pub fn devices_mut(&mut self) -> &mut I {
        &mut self.io
    }

    #[inline(never)]
    fn rx_lane(&mut self, port: PortId, device: PortId, burst: &mut Burst<I::Frame>) {
        let Some(Some(lane)) = self.lanes.get_mut(port.index()) else { return };
        if !lane.leaving.is_empty() {
            self.io.tx(device, &mut lane.leaving);
        }
        if lane.first && lanes_of(&mut self.lanes, &self.devices, device).all(|lane| lane.waiting.is_empty())
        {
            let mut received = Burst::new();
            self.io.rx(device, &mut received);
            for frame in received {
                self.sort(device, frame);
            }
        }
        if let Some(Some(lane)) = self.lanes.get_mut(port.index()) {
            let room = burst.remaining_capacity().min(lane.waiting.len());
            let frames = lane.waiting.drain(..room);
            if self.unfinished.get(device.index()) != Some(&true) {
                return burst.extend(frames);
            }
            for mut frame in frames {
                match unfinished::finish(&mut frame) {
                    Ok(()) => burst.push(frame),
                    Err(reason) => self.counters.count(Verdict::Drop(reason)),
                }
            }
        }
    }

    /// Gives a device's frame to the port that it is for. There is room: no port has more than a burst waiting.
    fn sort(&mut self, device: PortId, mut frame: I::Frame) {
        let tag = tag_of(frame.data());
        let counters = &self.counters;
        let known = lanes_of(&mut self.lanes, &self.devices, device).find(|lane| lane.vlan == tag);
        if let Some(lane) = known {
            if untag(&mut frame) {
                return lane.waiting.push(frame);
            }
            return counters.count(Verdict::Drop(Reason::Truncated));
        }
        match lanes_of(&mut self.lanes, &self.devices, device).find(|lane| lane.vlan.is_none()) {
            Some(lane) => lane.waiting.push(frame),
            None => counters.count(Verdict::Drop(Reason::UnknownVlan)),
        }
    }

    #[inline(never)]
    fn tx_lane(&mut self, port: PortId, device: PortId, burst: &mut Burst<I::Frame>) {
        let Some(Some(lane)) = self.lanes.get_mut(port.index()) else { return };
        let Some(vlan) = lane.vlan else { return self.io.tx(device, burst) };
        while !burst.is_empty() {
            let room = lane.leaving.remaining_capacity().min(burst.len());
            for mut frame in burst.drain(..room) {
                if tag(&mut frame, vlan) {
                    lane.leaving.push(frame);
                } else {
                    self.counters.count(Verdict::Drop(Reason::NoHeadroom));
                }
            }
            self.io.tx(device, &mut lane.leaving);
            if lane.leaving.is_full() {
                return;
            }
        }
    }
}

impl<I: Io> Io for VlanIo<I> {
    type Frame = I::Frame;

    #[inline(always)]
    fn ports(&self) -> usize {
        self.devices.len()
    }

    #[inline(always)]
    fn rx(&mut self, port: PortId, burst: &mut Burst<I::Frame>) {
        let device = self.devices[port.index()];
        if self.lanes[port.index()].is_some() {
            self.rx_lane(port, device, burst);
        } else {
            self.io.rx(device, burst);
        }
    }

    #[inline(always)]
    fn tx(&mut self, port: PortId, burst: &mut Burst<I::Frame>) {
        let device = self.devices[port.index()];
        if self.lanes[port.index()].is_some() {
            self.tx_lane(port, device, burst);
        } else {
            self.io.tx(device, burst);
        }
    }

    #[inline]
    fn alloc(&mut self) -> Option<I::Frame> {
        self.io.alloc()
    }

    fn exchange(&mut self, device: PortId, hand: &mut Hand) {
        self.io.exchange(device, hand);
    }
}

/// The ports of a device that has VLANs.
fn lanes_of<'a, F>(
    lanes: &'a mut [Option<Box<Lane<F>>>],
    devices: &'a [PortId],
    device: PortId,
) -> impl Iterator<Item = &'a mut Lane<F>> {
    let all = lanes.iter_mut().zip(devices);
    all.filter(move |(_, of)| **of == device).filter_map(|(lane, _)| lane.as_deref_mut())
}

/// The VLAN of a frame; none without a tag, or with one that only sets a priority (VLAN 0).
fn tag_of(data: &[u8]) -> Option<u16> {
    let (ethernet, rest) = EthernetHeader::split(data)?;
    let tag = VlanTag::split(rest).filter(|_| ethernet.ether_type() == ether_type::VLAN)?.0;
    Some(tag.id()).filter(|id| *id != 0)
}

/// Removes the tag, if there is one; false if the frame is too short for its type.
fn untag(frame: &mut impl Frame) -> bool {
    let Some(ethernet) = EthernetHeader::at(frame.data(), 0) else { return true };
    if ethernet.ether_type() != ether_type::VLAN {
        return true;
    }
    let data = frame.data_mut();
    if data.len() < EthernetHeader::LEN + VlanTag::LEN {
        return false;
    }
    data.copy_within(..ADDRESSES, VlanTag::LEN);
    frame.trim_front(VlanTag::LEN)
}

/// Adds a tag; false if there is no room before the frame.
fn tag(frame: &mut impl Frame, vlan: u16) -> bool {
    if frame.data().len() < EthernetHeader::LEN || !frame.prepend(VlanTag::LEN) {
        return false;
    }
    let data = frame.data_mut();
    data.copy_within(VlanTag::LEN..VlanTag::LEN + ADDRESSES, 0);
    data[ADDRESSES..ADDRESSES + 2].copy_from_slice(&ether_type::VLAN.to_be_bytes());
    data[ADDRESSES + 2..ADDRESSES + 4].copy_from_slice(&vlan.to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, VlanId};

    use super::*;
    use crate::io::{
        memory::{MemoryFrame, MemoryIo},
        places,
    };

    fn frame(vlan: Option<u16>, mark: u8) -> MemoryFrame {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut out = Vec::new();
        match vlan {
            Some(id) => builder
                .single_vlan(VlanId::try_new(id).unwrap())
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
                .udp(1, 2)
                .write(&mut out, &[mark]),
            None => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2).write(&mut out, &[mark]),
        }
        .unwrap();
        MemoryFrame::new(&out)
    }

    fn ports(ports: &[(&str, Option<u16>)]) -> VlanIo<MemoryIo> {
        let places = places(ports.iter().map(|(device, vlan)| (device, *vlan)));
        let devices = places.iter().map(|p| p.device).max().unwrap() + 1;
        let counters = Arc::new(PathCounters::new().unwrap());
        VlanIo::new(MemoryIo::new(devices.into()), &places, counters)
    }

    /// The marks of the frames that `port` receives, each without a tag.
    fn received(io: &mut VlanIo<MemoryIo>, port: u8) -> Vec<u8> {
        let mut burst = Burst::new();
        io.rx(PortId(port), &mut burst);
        burst.iter().for_each(|f| assert_eq!(f.bytes()[12..14], [8, 0], "{:?}", f.bytes()));
        burst.iter().map(|f| *f.bytes().last().unwrap()).collect()
    }

    #[test]
    fn frames_come_in_by_their_vlan() {
        let mut io = ports(&[("a", Some(100)), ("b", None), ("a", Some(200))]);
        for (device, vlan, mark) in [
            (0, Some(200), 1),
            (0, Some(100), 2),
            (0, Some(200), 3),
            (0, Some(300), 4),
            (0, None, 5),
            (1, None, 6),
        ] {
            io.io.push(PortId(device), frame(vlan, mark));
        }
        assert_eq!(received(&mut io, 0), [2]);
        assert_eq!(received(&mut io, 1), [6]);
        assert_eq!(received(&mut io, 2), [1, 3]);
        assert_eq!(io.counters.get(Verdict::Drop(Reason::UnknownVlan)), 2, "VLAN 300, and none");
        assert!(received(&mut io, 0).is_empty());
    }

    #[test]
    fn an_untagged_port_gets_frames_of_no_other_port() {
        let mut io = ports(&[("a", Some(100)), ("a", None)]);
        io.io.push(PortId(0), frame(None, 1));
        io.io.push(PortId(0), frame(Some(0), 2));
        assert!(received(&mut io, 0).is_empty());
        assert_eq!(received(&mut io, 1), [1, 2], "VLAN 0 is a priority, not a VLAN");
        io.io.push(PortId(0), frame(Some(7), 3));
        received(&mut io, 0);
        let mut burst = Burst::new();
        io.rx(PortId(1), &mut burst);
        assert_eq!(
            burst[0].bytes(),
            frame(Some(7), 3).bytes(),
            "a VLAN that the kernel may have on the twin"
        );
    }

    #[test]
    fn frames_leave_with_their_vlan_once_even_if_the_device_is_full() {
        let mut io = ports(&[("a", Some(100)), ("a", Some(4094)), ("a", None)]);
        for (port, vlan) in [(0, Some(100)), (1, Some(4094)), (2, None)] {
            io.io.tx_room = 1;
            let mut burst: Burst<_> = (0..3).map(|mark| frame(None, mark)).collect();
            io.tx(PortId(port), &mut burst);
            io.io.tx_room = usize::MAX;
            received(&mut io, port);
            if !burst.is_empty() {
                io.tx(PortId(port), &mut burst);
            }
            let sent: Vec<_> = io.io.take(PortId(0)).iter().map(MemoryFrame::bytes).collect();
            assert_eq!(sent, [0, 1, 2].map(|mark| frame(vlan, mark).bytes()), "{vlan:?}");
            let parsed = SlicedPacket::from_ethernet(&sent[0]).unwrap();
            assert_eq!(parsed.vlan_ids().first().map(|id| id.value()), vlan);
        }
    }

    #[test]
    fn a_full_device_keeps_what_it_did_not_take() {
        let mut io = ports(&[("a", Some(100))]);
        io.io.tx_room = 0;
        let mut burst: Burst<_> = (0..32).map(|mark| frame(None, mark)).collect();
        io.tx(PortId(0), &mut burst);
        assert!(burst.is_empty(), "they wait behind the tag");
        let mut more: Burst<_> = (32..40).map(|mark| frame(None, mark)).collect();
        io.tx(PortId(0), &mut more);
        assert_eq!(more.len(), 8);
        io.io.tx_room = usize::MAX;
        io.tx(PortId(0), &mut more);
        io.tx(PortId(0), &mut more);
        assert_eq!((more.len(), io.io.take(PortId(0)).len()), (0, 40));
    }

    #[test]
    fn short_and_chained_frames() {
        let mut io = ports(&[("a", Some(100))]);
        let whole = frame(Some(100), 9).bytes();
        io.io.push(PortId(0), MemoryFrame::new(&whole[..16]));
        io.io.push(PortId(0), MemoryFrame::new(&[]));
        io.io.push(PortId(0), MemoryFrame::chained(&[&whole[..20], &whole[20..]]));
        assert_eq!(received(&mut io, 0), [9]);
    }
}
