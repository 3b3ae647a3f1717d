//! `ipvsadm-save` and `ipvsadm-restore`, which are shell scripts around ipvsadm.

use std::{
    ffi::OsString,
    io::{Read, Write},
    path::Path,
};

use weir_api::{client::Transport, input};

use super::run::{Environment, ipvsadm};

/// `ipvsadm-save [-n]`. The exit status.
pub fn ipvsadm_save(
    args: &[OsString],
    transport: &mut dyn Transport,
    out: &mut dyn Write,
    err: &mut dyn Write,
    environment: &Environment,
) -> i32 {
    let mut line: Vec<OsString> = vec!["ipvsadm".into(), "-S".into()];
    for arg in args.iter().skip(1).map(|a| a.to_string_lossy()) {
        if arg == "-n" {
            line.truncate(2);
            line.push("-n".into());
        } else if arg.starts_with('-') {
            let name = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
            // If even stderr is closed there is nobody left to tell.
            let _ = writeln!(
                err,
                "{}: Script to save the IPVS table to stdout.\n   With the -n option, prints out the table in numeric format.",
                name.to_string_lossy()
            );
            return 1;
        }
    }
    ipvsadm(&line, &mut std::io::empty(), transport, out, err, environment)
}

/// `ipvsadm-restore < RULES`: clears the table, then `-R`; lines that begin with `#` are left out. The exit
/// status.
pub fn ipvsadm_restore(
    stdin: &mut dyn Read,
    transport: &mut dyn Transport,
    out: &mut dyn Write,
    err: &mut dyn Write,
    environment: &Environment,
) -> i32 {
    let rules = match input::read(stdin, input::LONGEST) {
        Ok(rules) => rules,
        Err(e) => {
            // If even stderr is closed there is nobody left to tell.
            let _ = writeln!(err, "cannot read the rules: {e}");
            return 1;
        }
    };
    let mut kept = Vec::with_capacity(rules.len() + 1);
    for line in rules.split(|b| *b == b'\n').filter(|line| !line.starts_with(b"#")) {
        kept.extend(line);
        kept.push(b'\n');
    }
    let mut run = |option: &str, mut input: &[u8]| {
        ipvsadm(&["ipvsadm".into(), option.into()], &mut input, transport, out, err, environment)
    };
    run("-C", &[]);
    run("-R", &kept)
}

#[cfg(test)]
mod tests {
    use weir_api::{
        client::ClientError,
        ipvsadm::names::SystemNames,
        protocol::{Request, Response},
    };

    use super::*;

    /// A gateway that mustn't be asked for anything.
    struct Untouched;

    impl Transport for Untouched {
        fn call(&mut self, request: Request) -> Result<Response, ClientError> {
            panic!("{request:?}")
        }
    }

    #[test]
    fn endless_rules_change_nothing() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = ipvsadm_restore(
            &mut std::io::repeat(b'-'),
            &mut Untouched,
            &mut out,
            &mut err,
            &Environment { names: &SystemNames, own: false },
        );
        assert_eq!(status, 1);
        assert_eq!(
            String::from_utf8_lossy(&err),
            "cannot read the rules: it is longer than 67108864 bytes\n"
        );
    }
}
