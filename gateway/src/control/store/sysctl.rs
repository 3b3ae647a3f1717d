//! IPVS's sysctls by name (`net.ipv4.vs.*`), for the `[ipvs]` table and for replays of recordings.

use std::sync::Arc;

use super::Store;
use crate::{
    control::plane::{Plane, PlaneChange},
    path::settings::Settings,
};

/// Why a sysctl couldn't be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    /// Weir doesn't have it.
    #[error("unknown IPVS setting {0:?}")]
    Unknown(String),
    /// The value is malformed or out of range.
    #[error("{value:?} isn't a value for IPVS setting {name:?}")]
    Value {
        /// The setting.
        name: String,
        /// What it was to be.
        value: String,
    },
}

impl<P: Plane> Store<P> {
    /// Sets `name` (with or without `net.ipv4.vs.`) as `sysctl -w` would.
    ///
    /// # Errors
    /// [`SysctlError`]; nothing changes.
    pub fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), SysctlError> {
        let mut settings = Settings::clone(&self.settings);
        set(&mut settings, name.strip_prefix("net.ipv4.vs.").unwrap_or(name), value)?;
        self.replace_settings(settings);
        Ok(())
    }

    /// Puts new settings in force.
    pub fn replace_settings(&mut self, settings: Settings) {
        self.settings = Arc::new(settings);
        self.plane.apply(vec![PlaneChange::Settings(self.settings.clone())]);
    }
}

fn set(settings: &mut Settings, name: &str, value: &str) -> Result<(), SysctlError> {
    let malformed = || SysctlError::Value { name: name.into(), value: value.into() };
    let number: u32 = value.trim().parse().map_err(|_| malformed())?;
    match name {
        "conn_reuse_mode" => settings.conn_reuse_mode = number,
        "expire_nodest_conn" => settings.expire_nodest_conn = number != 0,
        "expire_quiescent_template" => settings.expire_quiescent_template = number != 0,
        "sloppy_tcp" => settings.sloppy_tcp = number != 0,
        "sloppy_sctp" => settings.sloppy_sctp = number != 0,
        "lblc_expiration" => settings.lblc_expiration = number,
        "lblcr_expiration" => settings.lblcr_expiration = number,
        "nat_strict_tcp" => settings.nat_strict_tcp = number != 0,
        _ => return Err(SysctlError::Unknown(name.into())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values() {
        let mut s = Settings::default();
        assert_eq!(set(&mut s, "expire_nodest_conn", "1"), Ok(()));
        assert!(s.expire_nodest_conn);
        assert_eq!(set(&mut s, "conn_reuse_mode", " 0\n"), Ok(()));
        assert_eq!(s.conn_reuse_mode, 0);
        assert_eq!(set(&mut s, "nosuch", "1"), Err(SysctlError::Unknown("nosuch".into())));
        assert!(matches!(set(&mut s, "sloppy_tcp", "yes"), Err(SysctlError::Value { .. })));
    }
}
