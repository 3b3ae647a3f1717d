//! The manual pages in `docs/man` are what the definitions say. `WEIR_WRITE_MAN=1` writes them anew.

use std::{fs, path::Path};

use clap::CommandFactory;

pub fn pages_are_not_stale() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man");
    let configuration = fs::read_to_string(folder.join("../weir.toml")).unwrap();
    let pages = [
        ("weirctl.8", weirctl::commands::man::weirctl().unwrap()),
        ("weir.8", weirctl::commands::man::weir(weir::cli::Cli::command()).unwrap()),
        ("weir.toml.5", weirctl::commands::man::configuration(&configuration, env!("CARGO_PKG_VERSION"))),
    ];
    for (name, page) in pages {
        let file = folder.join(name);
        if std::env::var_os("WEIR_WRITE_MAN").is_some() {
            fs::write(&file, &page).unwrap();
        }
        let there = fs::read_to_string(&file).unwrap_or_default();
        assert!(there == page, "docs/man/{name} is stale: run this test with WEIR_WRITE_MAN=1 and commit it");
    }
}
