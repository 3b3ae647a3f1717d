//! What `-m` means to the services of a gateway, and how their servers are listed and saved for it.
//!
//! Programs that call ipvsadm know one way of masquerading. Where it is FULLNAT they see `Masq` and `-m` of it.

use std::collections::HashMap;

use weir_api::{
    ipvsadm::wording::{MASQUERADE, exact_option},
    model::{Family, Forwarding, Masquerade, MasqueradeSettings, Server, ServiceKey},
};

use super::list::Listed;

/// What `-m` means.
#[derive(Clone, Debug, Default)]
pub(super) struct Masquerades {
    default: Masquerade,
    services: HashMap<ServiceKey, Masquerade>,
}

impl From<MasqueradeSettings> for Masquerades {
    fn from(settings: MasqueradeSettings) -> Self {
        Self { default: settings.default, services: settings.services.into_iter().collect() }
    }
}

impl Masquerades {
    /// What it means to a service by the service's own setting.
    pub fn own_of(&self, service: &ServiceKey) -> Option<Masquerade> {
        self.services.get(service).copied()
    }

    fn of(&self, service: &ServiceKey) -> Masquerade {
        self.own_of(service).unwrap_or(self.default)
    }

    /// Makes FULLNAT servers `Masq`, where that is what a program got that said `-m`.
    pub fn hide_fullnat(&self, (row, servers): &mut Listed) {
        if self.default != Masquerade::FullNat && self.of(&row.service.key) != Masquerade::FullNat {
            return;
        }
        for row in servers.iter_mut().filter(|row| row.server.forwarding == Forwarding::FullNat) {
            row.server.forwarding = Forwarding::Nat;
        }
    }

    /// The option that gives a saved server its method again; `own`: weirctl's, which says NAT as well.
    pub fn saved(&self, service: &ServiceKey, server: &Server, own: bool) -> &'static str {
        let method = server.forwarding;
        let masquerades = match method {
            // ipvsadm can't say it otherwise.
            Forwarding::Nat => !own || self.of(service) == Masquerade::Nat,
            // A service that is restored under ipvsadm's names has no setting of its own, and they refuse `-m` to the other
            // family.
            Forwarding::FullNat => {
                let same_family = (service.family() == Family::V4) == server.address.is_ipv4();
                !own && self.default == Masquerade::FullNat && same_family
            }
            _ => false,
        };
        if masquerades { MASQUERADE } else { exact_option(method) }
    }
}
