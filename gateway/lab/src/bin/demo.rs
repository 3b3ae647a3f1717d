//! The demo: FULLNAT with real web servers, described step by step. `make demo` runs it.
//!
//! Every claim is checked; the exit status is 0 only if all of them held. `--hold` leaves the network up until Enter or
//! Ctrl-C.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{self, BufRead},
    panic,
    path::PathBuf,
    process::{ExitCode, exit},
    sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Instant,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use lab::{
    clients,
    gateway::{Gateway, Programs},
    servers::Web,
    topology::{self, LIP, Network, Options, VIP},
};

/// True while `--hold` waits for the user to end the demo.
static HOLDING: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    let hold = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--hold"] => true,
        _ => {
            eprintln!("usage: demo [--hold]");
            return ExitCode::from(2);
        }
    };
    let (stop, enough) = channel();
    watch_signals(stop.clone());
    panic::set_hook(Box::new(|panic| eprintln!("\nThe demo failed.\n{}", message(panic.payload()))));
    let begun = Instant::now();
    if panic::catch_unwind(move || tell(hold.then_some((stop, enough)))).is_err() {
        return ExitCode::FAILURE;
    }
    println!("\nThat was all of it, in {:.0} seconds.", begun.elapsed().as_secs_f32());
    ExitCode::SUCCESS
}

fn message(payload: &dyn std::any::Any) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("unknown reason")
}

/// Ends a demo that holds in the ordinary way on Ctrl-C, and cleans up after any other.
fn watch_signals(stop: Sender<()>) {
    let mut signals = Signals::new([SIGINT, SIGTERM]).expect("signals can be watched");
    thread::spawn(move || {
        for _ in signals.forever() {
            if !HOLDING.load(SeqCst) || stop.send(()).is_err() {
                lab::remove_own();
                exit(130);
            }
        }
    });
}

/// Runs the whole demo; it stays up before the end if there is a way to end it.
fn tell(hold: Option<(Sender<()>, Receiver<()>)>) {
    let programs = Programs::beside(&program("weir"));
    let network = topology::fullnat(&Options::default());
    introduce(&network);
    let web: Vec<_> = network.servers.iter().map(|host| Web::start(&network.lab, host, 80)).collect();

    let begun = Instant::now();
    let gateway = Gateway::start(&programs, &network.lab, &network.gateway, &network.config);
    println!(
        "\nThe gateway is ready after {:.1} s. It needs to know what to do:\n",
        begun.elapsed().as_secs_f32()
    );
    add_rules(&gateway, &network);
    show_table(&gateway, &network);
    ten_pages(&network);
    who_asked(&web);
    sessions(&gateway, &network);
    big_download(&network, &web[0]);
    if let Some((stop, enough)) = hold {
        say_how_to_poke(&programs, &network);
        HOLDING.store(true, SeqCst);
        watch_stdin(stop);
        let _ = enough.recv();
    }

    println!("\nStopping the gateway with SIGTERM ...");
    gateway.stop();
    let left = network.twins.ip("-o link");
    assert_eq!(left.lines().count(), 1, "it left links behind:\n{left}");
    assert!(!network.config.socket.exists(), "it left its socket behind");
    println!("It has gone with exit status 0, and so have its TAP devices, addresses and socket.");
}

/// A program of this build.
fn program(name: &str) -> PathBuf {
    let own = env::current_exe().expect("a program knows where it is");
    own.with_file_name(name)
}

fn introduce(network: &Network) {
    let [one, two] = [&network.servers[0], &network.servers[1]].map(|server| server.address);
    println!(
        "\
A client at {client} wants a page. The page is on two web servers, in another network:

                        weir                      router
  {client:<15} ──── wan    lan ──────── 10.10.0.1 | 10.20.0.1 ────┬── RS1 {one}
  (client)              {VIP}   {LIP}                         └── RS2 {two}
                        the VIP        the LIP

The servers' default gateway is the router, and the router knows no way to the client: whoever only
rewrote the destination would never see a reply. FULLNAT rewrites the source, too, to a local address
(LIP) that the servers can answer. All these hosts are network namespaces of this machine; weir drives
its two ports with DPDK (net_af_packet on veths), and nginx, curl and the kernels between are real.",
        client = network.client_addresses[0],
    );
}

fn add_rules(gateway: &Gateway, network: &Network) {
    let service = format!("-t {VIP}:80");
    let mut rules = vec![format!("-A {service} -s rr"), format!("-P {service} -z {LIP}")];
    rules.extend(network.servers.iter().map(|host| format!("-a {service} -r {}:80 --fullnat", host.address)));
    for rule in rules {
        println!("  # weirctl {rule}");
        gateway.ctl(&rule);
    }
}

fn show_table(gateway: &Gateway, network: &Network) {
    let table = gateway.ctl("-Ln");
    println!("\n  # weirctl -Ln\n{}", indent(&table));
    for host in &network.servers {
        let row = format!("  -> {:<28} FullNat 1 ", format!("{}:80", host.address));
        assert!(table.contains(&row), "{row:?} isn't in the table");
    }
}

fn ten_pages(network: &Network) {
    println!("Ten requests from the client:\n");
    let url = format!("http://{VIP}/");
    let pages: Vec<_> = (0..10)
        .map(|_| {
            let page = clients::curl(&network.client, &url);
            println!("  $ curl {url}    {}", page.trim());
            page
        })
        .collect();
    let expected: Vec<_> =
        network.servers.iter().map(|h| format!("<h1>{}:{}</h1>\n", h.name, h.address)).collect();
    assert!(pages.iter().all(|page| expected.contains(page)), "that is no server's page");
    assert!(pages.windows(2).all(|pair| pair[0] != pair[1]), "they don't alternate");
    println!("\nThey alternate, five each: round robin.");
}

fn who_asked(web: &[Web]) {
    let asked: Vec<_> = web.iter().flat_map(Web::clients).collect();
    assert_eq!(asked, [LIP; 10], "the servers saw other clients than the local address");
    println!("In the servers' logs all ten come from {LIP}, the local address.");
}

fn sessions(gateway: &Gateway, network: &Network) {
    let list = gateway.ctl("-L -n -c");
    println!("\nThe gateway's sessions; FULLNAT's local address is behind ipvsadm's columns:\n");
    println!("  # weirctl -Lnc\n{}", indent(&list));
    println!("Each of them, client -> virtual -> local -> real server:\n");
    let client = network.client_addresses[0].to_string();
    let mut found = 0;
    for line in list.lines().skip(2) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, _, _, from, to, server, local] = words[..] else { panic!("no local address: {line}") };
        println!("  {from} -> {to} -> {local} -> {server}");
        let behind = network.servers.iter().any(|host| host.at(80).to_string() == server);
        let ours = from.starts_with(&format!("{client}:")) && local.starts_with(&format!("{LIP}:"));
        found += usize::from(behind && ours && to == format!("{VIP}:80"));
    }
    assert_eq!(found, 10, "ten sessions should name client, virtual, local and real server");
    println!();
}

fn big_download(network: &Network, server: &Web) {
    println!("200 MB through it, by way of one session:\n");
    clients::random_file(&server.page("big"), 200);
    let copy = network.lab.directory().join("copy");
    // Round robin may choose RS1 or RS2, so both have the file.
    for host in &network.servers[1..] {
        let other = network.lab.directory().join(format!("{}-80/html/big", host.name));
        std::fs::hard_link(server.page("big"), other).expect("the scratch directory takes a link");
    }
    let url = format!("http://{VIP}/big");
    let speed = clients::download(&network.client, &url, &copy);
    println!("  $ curl --output copy {url}");
    let (sent, got) = (clients::sha256(&server.page("big")), clients::sha256(&copy));
    println!("  sha256 of the original  {sent}\n  sha256 of the copy      {got}");
    assert_eq!(sent, got, "the copy differs");
    println!(
        "\nThe same, at {:.0} Mb/s ({:.0} MB/s), over veths and software devices.",
        speed * 8e-6,
        speed * 1e-6
    );
}

fn say_how_to_poke(programs: &Programs, network: &Network) {
    let (socket, ctl) = (network.config.socket.display(), programs.weirctl.display());
    let scratch = network.lab.directory().display();
    println!("\nEverything stays up. As root, in another terminal:\n");
    println!("  export WEIR_SOCKET={socket}");
    println!("  {ctl} -Ln");
    println!("  {ctl} -e -t {VIP}:80 -r {}:80 --fullnat -w 0", network.servers[0].address);
    println!("  ip netns exec {} curl http://{VIP}/", network.client.name());
    println!("  ip netns exec {} ping {VIP}", network.client.name());
    println!(
        "  ip -n {} address        # the TAP twins: the kernel's side of the ports",
        network.twins.name()
    );
    println!("  ip netns exec {} ss -tan  # whom a server sees", network.servers[0].namespace.name());
    println!("  less {scratch}/weir.toml {scratch}/weir.log");
    println!("\nEnter or Ctrl-C ends it and cleans up.");
}

/// A line on stdin ends the wait. Without stdin only a signal does.
fn watch_stdin(stop: Sender<()>) {
    thread::spawn(move || {
        if io::stdin().lock().read_line(&mut String::new()).is_ok_and(|read| read > 0) {
            let _ = stop.send(());
        }
    });
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {}\n", line.trim_end())).collect()
}
