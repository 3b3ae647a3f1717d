//! `weirctl` as a process, against a real socket, on pipes and on terminals of its own.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::{net::UnixListener, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};
use parking_lot::Mutex;
use weir::control::{
    server::{ConnectionLimits, ControlServer},
    store::Store,
};
use weir_api::protocol::{Access, VERSION, frame, handshake::HelloAnswer};

use crate::{fake::FakePlane, world};

/// How long something may take that should happen at once.
const SOON: Duration = Duration::from_secs(20);

struct Gateway {
    store: Arc<Mutex<Store<FakePlane>>>,
    server: Option<ControlServer>,
    folder: PathBuf,
}

impl Gateway {
    fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("commands-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let store = Arc::new(Mutex::new(world::store()));
        world::shop(&mut store.lock());
        let server =
            ControlServer::start(&folder.join("s"), store.clone(), ConnectionLimits::default()).unwrap();
        Self { store, server: Some(server), folder }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg0("weirctl").args(line.split_whitespace());
        command.env("WEIR_SOCKET", self.folder.join("s")).env("TERM", "xterm").env_remove("NO_COLOR");
        command
    }

    fn output(&self, line: &str) -> Output {
        self.command(line).stdin(Stdio::null()).output().unwrap()
    }

    /// In front of a terminal that sends it signals.
    fn on_a_terminal_of_its_own(&self, line: &str) -> Terminal {
        let link = self.folder.join("weirctl");
        let _ = std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link);
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(link).args(line.split_whitespace());
        command.env("WEIR_SOCKET", self.folder.join("s")).env("TERM", "xterm").env_remove("NO_COLOR");
        Terminal::start(command)
    }

    fn on_terminal(&self, line: &str) -> Terminal {
        Terminal::start(self.command(line))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.server.take());
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// A process on a terminal of 80 by 24.
struct Terminal {
    child: Child,
    master: File,
    slave: File,
    output: mpsc::Receiver<Vec<u8>>,
    raw: Vec<u8>,
    screen: vt100::Parser,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        let master = File::from(pty.master);
        let (tell, output) = mpsc::channel();
        let mut reader = master.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if tell.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vt100::Parser::new(24, 80, 0);
        Self { child, master, slave: pty.slave.into(), output, raw: Vec::new(), screen }
    }

    /// Waits until the screen shows something.
    fn wait_for(&mut self, what: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        while start.elapsed() < SOON {
            let contents = self.screen.screen().contents();
            if what(&contents) {
                return contents;
            }
            self.take(Duration::from_millis(200));
        }
        panic!("the screen never showed it:\n{}", self.screen.screen().contents());
    }

    /// Waits until the rows of the screen are right, each by itself however lines have wrapped.
    fn wait_for_rows(&mut self, what: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        loop {
            let columns = self.screen.screen().size().1;
            let rows: Vec<String> = self.screen.screen().rows(0, columns).collect();
            if what(&rows) {
                return;
            }
            assert!(start.elapsed() < SOON, "the screen never showed it:\n{rows:#?}");
            self.take(Duration::from_millis(200));
        }
    }

    fn take(&mut self, patience: Duration) {
        if let Ok(bytes) = self.output.recv_timeout(patience) {
            self.screen.process(&bytes);
            self.raw.extend(bytes);
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    /// Gives the terminal another size, as a window does.
    fn resize(&mut self, rows: u16, columns: u16) {
        self.screen.screen_mut().set_size(rows, columns);
        let mut stty = Command::new("stty");
        stty.args(["rows", &rows.to_string(), "cols", &columns.to_string()]);
        let done = stty.stdin(self.slave.try_clone().unwrap()).status().unwrap();
        assert!(done.success());
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end; the exit status.
    fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            self.take(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().unwrap() {
                while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(50)) {
                    self.screen.process(&bytes);
                    self.raw.extend(bytes);
                }
                return status.code();
            }
            assert!(start.elapsed() < SOON, "it doesn't end:\n{}", self.screen.screen().contents());
        }
    }

    fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Connects and listens, but says nothing after the greeting, or not even that: as a gateway that was stopped.
struct Stopped {
    folder: PathBuf,
}

impl Stopped {
    fn new(greets: bool) -> Self {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stopped-{}-{greets}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("s")).unwrap();
        // It ends with the process.
        thread::spawn(move || {
            let mut kept = Vec::new();
            loop {
                if !greets {
                    thread::sleep(SOON);
                    continue;
                }
                let (mut stream, _) = listener.accept().unwrap();
                frame::read(&mut stream).unwrap();
                let answer = HelloAnswer::Accepted {
                    version: VERSION,
                    access: Access::ReadWrite,
                    gateway: "0.1".into(),
                };
                frame::send_body(&mut stream, &answer.to_bytes()).unwrap();
                kept.push(stream);
            }
        });
        Self { folder }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

pub fn a_stopped_gateway_is_given_up_on() {
    for greets in [false, true] {
        let gateway = Stopped::new(greets);
        let rules = gateway.folder.join("rules");
        std::fs::write(&rules, "-A -t 192.0.2.10:80 -s rr\n# end of 1 rule\n").unwrap();
        let file = gateway.folder.join("file");
        std::fs::write(&file, "").unwrap();
        let commands = [
            "-L -n",
            "-Lc -n",
            "-L --timeout",
            "-S -n",
            "-R",
            "-C",
            "-A -t 192.0.2.10:80",
            "status",
            "stats",
            "stats --watch",
            "top --json",
            "sessions",
            "export",
            "save FILE",
            "diff FILE",
            "apply FILE",
            "drain tcp/192.0.2.10:80 10.0.0.1:80",
            "undrain tcp/192.0.2.10:80 10.0.0.1:80",
            "explain tcp 10.1.0.1:4000 192.0.2.10:80",
            "trace -n 1",
            "log sessions",
            "mark list",
            "snat list",
            "local-address list",
            "client-address",
            "masquerade",
        ];
        // All at once: each of them waits.
        let started = Instant::now();
        let running: Vec<(&str, Child)> = commands
            .into_iter()
            .map(|line| {
                let line_of = line.replace("FILE", &file.display().to_string());
                let child = Command::new(std::env::current_exe().unwrap())
                    .arg0("weirctl")
                    .args(["--timeout", "0.5"])
                    .args(line_of.split(' '))
                    .env("WEIR_SOCKET", gateway.folder.join("s"))
                    .stdin(File::open(&rules).unwrap())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn();
                (line, child.unwrap())
            })
            .collect();
        for (line, child) in running {
            let output = child.wait_with_output().unwrap();
            let complaint = text(&output.stderr);
            assert!(complaint.contains("the gateway has not answered for 0.5 s"), "{line}: {complaint}");
            assert_ne!(output.status.code(), Some(0), "{line}");
        }
        assert!(started.elapsed() < SOON, "one of them waited for longer");
    }
}

pub fn exit_statuses() {
    let gateway = Gateway::start();
    for (line, status, complaint) in [
        ("status", 0, ""),
        ("stats --json", 0, ""),
        ("--socket /nonexistent/s status", 3, "weirctl: cannot reach the gateway at /nonexistent/s: "),
        ("status --socket /nonexistent/s", 3, "weirctl: cannot reach the gateway at /nonexistent/s: "),
        ("stats tcp/192.0.2.10:81", 1, "weirctl: no such service: "),
        ("apply /nonexistent/file", 2, "weirctl: /nonexistent/file: "),
        ("stauts", 2, "error: unrecognized subcommand 'stauts'"),
        ("drain", 2, "error: the following required arguments"),
        ("sessions --kill", 2, "weirctl: --kill without a filter"),
        ("completion bash", 0, ""),
        ("--help", 0, ""),
        ("--version", 0, ""),
        // With options it is ipvsadm.
        ("-D -t 192.0.2.10:81", 255, "No such service"),
        ("--list --numeric", 0, ""),
    ] {
        let output = gateway.output(line);
        assert_eq!(output.status.code(), Some(status), "{line}: {}", text(&output.stderr));
        assert!(text(&output.stderr).starts_with(complaint), "{line}: {}", text(&output.stderr));
        assert_eq!(status == 0, !output.stdout.is_empty(), "{line}");
    }
    assert!(text(&gateway.output("status").stderr).is_empty());
    assert_eq!(gateway.output("").status.code(), Some(2), "a bare word is wanted");
}

pub fn colours_are_for_terminals() {
    let gateway = Gateway::start();
    assert!(!text(&gateway.output("stats").stdout).contains('\x1b'));
    let mut terminal = gateway.on_terminal("stats");
    assert_eq!(terminal.end(), Some(0));
    assert!(text(&terminal.raw).contains("\x1b[1m"), "{}", text(&terminal.raw));
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = gateway.command("stats");
        command.env(name, value);
        let mut terminal = Terminal::start(command);
        assert_eq!(terminal.end(), Some(0));
        assert!(!text(&terminal.raw).contains('\x1b'), "{name}");
        assert!(terminal.screen.screen().contents().contains("tcp/192.0.2.10:80"));
    }
}

pub fn completion_knows_the_addresses() {
    let gateway = Gateway::start();
    let ask = |words: &str| {
        let mut command = gateway.command("-- weirctl");
        command.args(words.split(' ')).env("WEIRCTL_COMPLETE", "fish");
        text(&command.output().unwrap().stdout)
    };
    assert!(ask("dr").contains("drain"));
    assert!(ask("drain tcp").starts_with("tcp/192.0.2.10:80"), "{}", ask("drain tcp"));
    let servers = ask("undrain tcp/192.0.2.10:80 ");
    assert!(servers.contains("10.0.0.1:8080") && servers.contains("10.0.0.2:8080"), "{servers}");
    assert!(ask("sessions --state EST").contains("ESTABLISHED"));
}

/// Shells as they come, without any configuration: how each starts, and how it learns of completion.
const SHELLS: [(&str, &[&str], &str); 3] = [
    ("bash", &["--norc", "--noprofile", "-i"], "source <(weirctl completion bash)"),
    (
        "zsh",
        &["-f", "-i"],
        "PS1='ready> '; autoload -Uz compinit; compinit -D; source <(weirctl completion zsh)",
    ),
    (
        "fish",
        &["--no-config", "-i"],
        "function fish_prompt; echo -n 'ready> '; end; weirctl completion fish | source",
    ),
];

pub fn shells_complete_addresses_past_their_colons() {
    let gateway = Gateway::start();
    let link = gateway.folder.join("weirctl");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link).unwrap();
    let path = format!("{}:{}", gateway.folder.display(), std::env::var("PATH").unwrap());
    for (shell, options, learn) in SHELLS {
        let there = |folder: PathBuf| folder.join(shell).exists();
        assert!(
            std::env::split_paths(&path).any(there),
            "there is no {shell}: scripts/deps test installs it"
        );
        let mut command = Command::new("setsid");
        command.args(["--ctty", shell]).args(options).env("PATH", &path).env("TERM", "xterm");
        command.env("WEIR_SOCKET", gateway.folder.join("s")).env("HOME", &gateway.folder);
        command.env("PS1", "ready> ");
        let mut terminal = Terminal::start(command);
        terminal.press(format!("{learn}; echo lear''ned\n").as_bytes());
        // What is typed before the prompt would be echoed in front of it, and the shell would edit other columns than it thinks.
        terminal.wait_for(|s| s.contains("\nlearned") && s.trim_end().ends_with("ready>"));
        // The port of a service, then a server by its first letters.
        let type_then_complete = |terminal: &mut Terminal, text: &str| {
            terminal.press(text.as_bytes());
            terminal.wait_for(|s| s.contains(&format!("ready> {text}")));
            terminal.press(b"\t");
        };
        type_then_complete(&mut terminal, "weirctl drain tcp/192.0.2.10:");
        terminal.wait_for(|s| s.contains("drain tcp/192.0.2.10:80 "));
        terminal.press(b"10.0.0.1:\t");
        terminal.wait_for(|s| s.contains("drain tcp/192.0.2.10:80 10.0.0.1:8080 "));
        // The line is emptied; what is typed before that is done would be echoed, not edited.
        terminal.press(b"\x15");
        terminal.wait_for(|s| s.trim_end().ends_with("ready>"));
        type_then_complete(&mut terminal, "weirctl sessions --service=tcp/192.0.2.10:");
        terminal.wait_for(|s| s.contains("--service=tcp/192.0.2.10:80 "));
    }
}

pub fn top_restores_the_terminal() {
    let gateway = Gateway::start();
    // By a key, by Ctrl-C, by a signal, and because the gateway goes.
    for (n, end) in ["q", "\x03", "TERM", "gone"].into_iter().enumerate() {
        let mut terminal = gateway.on_terminal("top");
        let screen = terminal.wait_for(|s| s.contains("tcp/192.0.2.10:80"));
        assert!(screen.contains("q quit"), "{screen}");
        assert!(!terminal.is_cooked() && terminal.screen.screen().alternate_screen());
        // News arrive without a key.
        let service = world::service(world::tcp(1000 + n as u16));
        gateway.store.lock().apply(&weir_api::protocol::Change::AddService(service).into()).unwrap();
        terminal.wait_for(|s| s.contains(&format!(":{}", 1000 + n)));
        terminal.press(b"s");
        terminal.wait_for(|s| s.contains("s sort: packets"));
        let status = match end {
            "TERM" => {
                terminal.signal(Signal::SIGTERM);
                terminal.end()
            }
            "gone" => break,
            keys => {
                terminal.press(keys.as_bytes());
                terminal.end()
            }
        };
        assert_eq!(status, Some(0), "{end}: {}", text(&terminal.raw));
        assert!(terminal.is_cooked() && !terminal.screen.screen().alternate_screen(), "{end}");
        assert!(!terminal.screen.screen().hide_cursor(), "{end}");
    }
}

pub fn watching_ends_with_the_gateway() {
    let mut gateway = Gateway::start();
    let mut top = gateway.on_terminal("top");
    top.wait_for(|s| s.contains("tcp/192.0.2.10:80"));
    let mut stats = gateway.on_terminal("stats --watch");
    stats.wait_for(|s| s.contains("tcp/192.0.2.10:80"));
    drop(gateway.server.take());
    for terminal in [&mut top, &mut stats] {
        assert_eq!(terminal.end(), Some(3));
        let screen = terminal.screen.screen();
        assert!(terminal.is_cooked() && !screen.alternate_screen());
        assert!(screen.contents().contains("weirctl: "), "{}", screen.contents());
    }
}

pub fn stats_are_watched_in_place() {
    let gateway = Gateway::start();
    for end in ["\x03", "TERM"] {
        let mut terminal = gateway.on_a_terminal_of_its_own("stats --watch");
        let screen = terminal.wait_for(|s| s.contains("10.0.0.2:8080"));
        let clock =
            |s: &str| s.lines().next().unwrap_or_default().split_whitespace().next().map(str::to_owned);
        let time = clock(&screen).unwrap();
        let parts: Vec<&str> = time.split(':').collect();
        assert!(parts.len() == 3 && parts.iter().all(|p| p.len() == 2), "{screen}");
        let shown = terminal.screen.screen();
        assert!(shown.alternate_screen() && shown.hide_cursor());
        assert!(!screen.contains("rates over"), "there is nothing to compare with yet: {screen}");
        // What is new is drawn over what was there, with rates.
        let service = world::service(world::tcp(2000 + u16::from(end == "TERM")));
        gateway.store.lock().apply(&weir_api::protocol::Change::AddService(service).into()).unwrap();
        let screen = terminal.wait_for(|s| s.contains(":200") && s.contains("  rates over "));
        assert_eq!(screen.matches("SERVICE").count(), 1, "{screen}");
        // Another size: what doesn't fit is cut, in both directions.
        terminal.resize(6, 40);
        // Row by row: stty sets rows and columns one after the other, and the frame between them wraps here.
        let first = |rows: &[String]| rows.get(2).is_some_and(|row| row.starts_with("SERVICE "));
        let last = |rows: &[String]| rows.last().is_some_and(|row| row.contains(" more lines: name a"));
        terminal.wait_for_rows(|rows| rows.len() == 6 && first(rows) && last(rows));
        terminal.resize(24, 80);
        terminal.wait_for(|s| s.contains("10.0.0.2:8080"));
        match end {
            "TERM" => terminal.signal(Signal::SIGTERM),
            keys => terminal.press(keys.as_bytes()),
        }
        assert_eq!(terminal.end(), Some(0), "{end}: {}", text(&terminal.raw));
        let screen = terminal.screen.screen();
        assert!(terminal.is_cooked() && !screen.alternate_screen() && !screen.hide_cursor(), "{end}");
        assert!(terminal.raw.ends_with(b"\x1b[?25h\x1b[?1049l"));
    }
}

/// Where there is no terminal one block follows another.
pub fn stats_are_watched_in_a_pipe() {
    let gateway = Gateway::start();
    let mut child = gateway.command("stats --watch").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    while seen.matches("SERVICE").count() < 2 {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{seen}");
        seen += &text(&buffer[..n]);
        if seen.matches("SERVICE").count() == 1 {
            let service = world::service(world::tcp(3000));
            let _ = gateway.store.lock().apply(&weir_api::protocol::Change::AddService(service).into());
        }
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!seen.contains('\x1b') && seen.contains("\n\n") && seen.contains("rates over"), "{seen}");
}

pub fn an_interrupted_drain_says_so() {
    let gateway = Gateway::start();
    gateway.store.lock().plane_mut().active = 250;
    let mut terminal = gateway.on_terminal("drain tcp/192.0.2.10:80 10.0.0.1");
    terminal.wait_for(|s| s.contains("[..............................] 250 sessions left"));
    gateway.store.lock().plane_mut().active = 125;
    terminal
        .wait_for(|s| s.contains("[###############...............] 125 sessions left") && s.contains("ETA "));
    terminal.signal(Signal::SIGINT);
    assert_eq!(terminal.end(), Some(4));
    let screen = terminal.screen.screen().contents().replace('\n', "");
    assert!(screen.contains("stays drained (weight 0) with 125 sessions left"), "{screen}");
    assert!(screen.contains("weirctl undrain tcp/192.0.2.10:80 10.0.0.1:8080"), "{screen}");
    let undrained = gateway.output("undrain tcp/192.0.2.10:80 10.0.0.1");
    assert!(text(&undrained.stdout).contains("has weight 5"), "{undrained:?}");
}
