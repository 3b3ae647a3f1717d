//! A safe wrapper of DPDK's rule lookup (rte_acl), with which a gateway built from DPDK's own parts would find marks.
//!
//! It supports rules for IPv4 packets (protocol, networks, ranges of ports), one thread, and one category.

use std::{
    ffi::CString,
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use dpdk::Eal;

use crate::sys;

/// The fields that the rules match, in network byte order: protocol, three unused bytes, source, destination, source
/// port, destination port.
pub type Key = [u8; 16];

/// The most keys that are classified together.
pub const BULK: usize = 32;

const FIELDS: usize = 5;

/// A rule; numbers in host order.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// IP protocol number, or any.
    pub protocol: Option<u8>,
    /// Source network and prefix length.
    pub source: (u32, u8),
    /// Destination network and prefix length.
    pub destination: (u32, u8),
    /// First and last source port.
    pub source_ports: (u16, u16),
    /// First and last destination port.
    pub destination_ports: (u16, u16),
}

/// A rule in rte_acl's form.
#[repr(C)]
struct Raw {
    data: sys::rte_acl_rule_data,
    field: [sys::rte_acl_field; FIELDS],
}

/// Rules built into a trie, usable as long as EAL is up.
pub struct RteAcl<'eal> {
    context: NonNull<sys::rte_acl_ctx>,
    _eal: PhantomData<&'eal Eal>,
}

fn field(kind: u32, size: u8, index: u8, input: u8, offset: u32) -> sys::rte_acl_field_def {
    sys::rte_acl_field_def { type_: kind as u8, size, field_index: index, input_index: input, offset }
}

fn raw(n: usize, rule: &Rule) -> Raw {
    let byte = |v: u8, mask: u8| sys::rte_acl_field {
        value: sys::rte_acl_field_types { u8_: v },
        mask_range: sys::rte_acl_field_types { u8_: mask },
    };
    let network = |(address, bits): (u32, u8)| sys::rte_acl_field {
        value: sys::rte_acl_field_types { u32_: address },
        mask_range: sys::rte_acl_field_types { u32_: bits.into() },
    };
    let ports = |(first, last): (u16, u16)| sys::rte_acl_field {
        value: sys::rte_acl_field_types { u16_: first },
        mask_range: sys::rte_acl_field_types { u16_: last },
    };
    Raw {
        data: sys::rte_acl_rule_data {
            category_mask: 1,
            priority: (sys::RTE_ACL_MAX_PRIORITY as i32).saturating_sub(n as i32),
            // 0 means that no rule applies.
            userdata: n as u32 + 1,
        },
        field: [
            rule.protocol.map_or(byte(0, 0), |p| byte(p, 0xff)),
            network(rule.source),
            network(rule.destination),
            ports(rule.source_ports),
            ports(rule.destination_ports),
        ],
    }
}

impl<'eal> RteAcl<'eal> {
    /// Builds the rules; the first one has the highest priority. `None` if DPDK can't build them.
    #[must_use]
    pub fn new(_eal: &'eal Eal, rules: &[Rule]) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = CString::new(format!("acl{}", NUMBER.fetch_add(1, Relaxed))).ok()?;
        let parameters = sys::rte_acl_param {
            name: name.as_ptr(),
            socket_id: -1,
            rule_size: size_of::<Raw>() as u32,
            max_rule_num: rules.len() as u32,
        };
        // SAFETY: EAL is up (there is an `Eal`); parameters and name live through the call, which copies both.
        let context = NonNull::new(unsafe { sys::rte_acl_create(&raw const parameters) })?;
        let acl = Self { context, _eal: PhantomData };
        let raw: Vec<Raw> = rules.iter().enumerate().map(|(n, rule)| raw(n, rule)).collect();
        let mut config =
            sys::rte_acl_config { num_categories: 1, num_fields: FIELDS as u32, ..Default::default() };
        config.defs[..FIELDS].copy_from_slice(&[
            field(sys::RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, 0),
            field(sys::RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, 4),
            field(sys::RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, 8),
            field(sys::RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, 12),
            field(sys::RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, 14),
        ]);
        // SAFETY: the context is ours alone; its rules have the size that it was made for; both calls copy what they
        // are given.
        let built = unsafe {
            sys::rte_acl_add_rules(acl.context.as_ptr(), raw.as_ptr().cast(), raw.len() as u32) == 0
                && sys::rte_acl_build(acl.context.as_ptr(), &raw const config) == 0
        };
        built.then_some(acl)
    }

    /// The first rules that apply to at most [`BULK`] keys, counted from 1; 0 if none applies.
    pub fn classify(&self, keys: &[Key], results: &mut [u32; BULK]) {
        let mut pointers = [std::ptr::null::<u8>(); BULK];
        for (pointer, key) in pointers.iter_mut().zip(keys) {
            *pointer = key.as_ptr();
        }
        let count = keys.len().min(BULK) as u32;
        // SAFETY: `pointers` holds `count` pointers to keys as long as the fields reach; `results` has room for one
        // result each.
        unsafe {
            sys::rte_acl_classify(
                self.context.as_ptr(),
                pointers.as_mut_ptr(),
                results.as_mut_ptr(),
                count,
                1,
            );
        }
    }
}

impl Drop for RteAcl<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `rte_acl_create`, freed once, EAL still up by the lifetime.
        unsafe { sys::rte_acl_free(self.context.as_ptr()) }
    }
}
