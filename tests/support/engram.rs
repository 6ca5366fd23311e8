//! The `engram` binary as a user runs it: one process a command, its output and exit code looked at.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;

use super::git_sample::generate;
use super::wait_until;

/// Longer than any command of the tests takes.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// A data folder and a log: what the commands of a test have in common.
pub struct Engram {
    options: Vec<String>,
    data: PathBuf,
}

impl Engram {
    /// The embedded log in `data`.
    pub fn embedded(data: &Path) -> Self {
        let options = vec!["--data".to_owned(), data.display().to_string()];
        Self { options, data: data.to_owned() }
    }

    /// Apache Kafka, with the stores in `data`.
    pub fn on_kafka(data: &Path, brokers: &str) -> Self {
        let mut engram = Self::embedded(data);
        engram.options.extend(["--brokers".to_owned(), brokers.to_owned()]);
        engram
    }

    /// With a configuration, written beside the data folder.
    pub fn configured(mut self, toml: &str) -> Self {
        let path = self.data.with_extension("toml");
        std::fs::write(&path, toml).expect("the configuration can be written");
        self.options.extend(["--config".to_owned(), path.display().to_string()]);
        self
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare(arguments);
        command.args(&self.options);
        command
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("engram runs");
        let (out, err) = texts(&output);
        assert!(output.status.success(), "engram {}: {}\n{out}\n{err}", arguments.join(" "), output.status);
        out
    }

    /// As `run`, with `input` on standard input.
    #[track_caller]
    pub fn run_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.output_with(arguments, input);
        let (out, err) = texts(&output);
        assert!(output.status.success(), "engram {}: {}\n{out}\n{err}", arguments.join(" "), output.status);
        out
    }

    pub fn output_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("engram runs");
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads its input");
        child.wait_with_output().expect("it ends")
    }

    /// The JSON lines of a command that must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.run(&[arguments, &["--json"]].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// All records of a topic, as `consume --json` prints them.
    #[track_caller]
    pub fn consume(&self, topic: &str) -> Vec<Value> {
        self.json(&["consume", topic])
    }

    /// Runs a command that must fail with this exit code and one line on standard error, which is returned.
    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        failure(&self.command(arguments).output().expect("engram runs"), code, arguments)
    }

    /// All that a service has committed comes out again.
    #[track_caller]
    pub fn replays(&self, service: &str) {
        println!("{}", self.run(&["replay", service, "--verify"]));
    }

    /// Starts `engram up` and waits until it says that it is up.
    ///
    /// Its log is appended to a file beside the data folder, with this extension: `log`.
    pub fn up(&self, arguments: &[&str]) -> Up {
        self.up_at("127.0.0.1:0", arguments)
    }

    /// The same at an address that clients know already.
    pub fn up_at(&self, http: &str, arguments: &[&str]) -> Up {
        let command = self.command(&[&["up", "--http", http], arguments].concat());
        Up::start(command, &self.data.with_extension("log"))
    }

    /// Runs the services until nothing is left to do.
    #[track_caller]
    pub fn catch_up(&self) {
        self.run(&["up", "--http", "127.0.0.1:0", "--exit-when-idle", "1"]);
    }

    /// Ingests and processes two generated repositories, one after the other, with a snapshot of the activity service between.
    #[track_caller]
    pub fn ingest_in_parts(&self, folder: &Path, commits: usize, random: &mut StdRng) {
        for part in ["one", "two"] {
            let repository = folder.join(part);
            generate(&repository, commits, random.random());
            self.run(&["ingest", "git", &repository.display().to_string()]);
            self.catch_up();
            if part == "one" {
                self.run(&["snapshot", "create", "activity"]);
            }
        }
    }
}

/// The binary with these arguments and nothing else.
pub fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engram"));
    command.args(arguments);
    for variable in ["DATA", "BROKERS", "REGISTRY", "CONFIG", "HTTP", "LOG"] {
        command.env_remove(format!("ENGRAM_{variable}"));
    }
    command
}

/// Checks that a command failed as a user may expect, and returns its one line.
#[track_caller]
pub fn failure(output: &Output, code: i32, arguments: &[&str]) -> String {
    let (out, err) = texts(output);
    assert_eq!(output.status.code(), Some(code), "engram {}\n{out}\n{err}", arguments.join(" "));
    assert!(!err.contains("panicked"), "{err}");
    // What an operator's log says (JSON) is not the message.
    let lines: Vec<&str> =
        err.lines().filter(|line| !line.starts_with('{') && !line.starts_with("engram is up")).collect();
    assert_eq!(lines.len(), 1, "engram {}: one line is wanted\n{err}", arguments.join(" "));
    assert!(lines[0].starts_with("engram: "), "{err}");
    lines[0].to_owned()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A running `engram up`; killed on drop.
pub struct Up {
    child: Child,
    /// Its HTTP address, `http://HOST:PORT`.
    pub http: String,
    log: Arc<Mutex<String>>,
}

impl Up {
    fn start(mut command: Command, log_file: &Path) -> Self {
        let file = std::fs::File::options().append(true).create(true).open(log_file);
        let mut file = file.expect("the log file can be written");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("engram runs");
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let _ = writeln!(file, "{line}");
                let mut log = kept.lock().expect("no reader panics");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut up = Self { child, http: String::new(), log };
        wait_until("engram is up", STARTED_WITHIN, || {
            let log = up.log.lock().expect("no reader panics").clone();
            if let Some(status) = up.child.try_wait().expect("it is our child") {
                panic!("engram up ended: {status}\n{log}");
            }
            let address = log.lines().find_map(|line| line.strip_prefix("engram is up: ")?.split(' ').next());
            up.http = address.unwrap_or_default().to_owned();
            address.is_some()
        });
        up
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where editors find documents.
    pub fn documents(&self) -> String {
        format!("{}/v1/documents", self.http.replacen("http", "ws", 1))
    }

    /// Whether it runs, or how it has ended: for a message.
    fn how_it_is(&self) -> String {
        // SAFETY: all zeros is a value of it; it is plain data.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a siginfo_t, and the child stays to be waited for.
        unsafe { libc::waitid(libc::P_PID, self.pid(), &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
        // SAFETY: waitid has filled in the fields of a child's end, or left them zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        match info.si_code {
            _ if pid == 0 => "it runs".to_owned(),
            libc::CLD_EXITED => format!("it ended with {status}"),
            _ => format!("it was ended by signal {status}"),
        }
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    /// What its log says of each task of the activity service that it has restored.
    pub fn restores(&self) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains("task restored"));
        let restored = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        restored.filter(|restored| restored["service"] == "activity").collect()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// SIGKILL: it gets no chance to finish anything.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// SIGSTOP: it stands still, and knows nothing of it.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT: it goes on where it stood.
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGTERM, without waiting for the end.
    pub fn ask_to_stop(&self) {
        self.signal(libc::SIGTERM);
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill(2) takes no pointers; the process is our child and has not been waited for.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0, "the process is there");
    }

    /// SIGTERM, and waits: a clean stop.
    #[track_caller]
    pub fn stop(mut self) {
        self.ask_to_stop();
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "engram up: {status}\n{}", self.log());
    }

    /// SIGTERM, and waits: a stop that must fail. Returns what it has written to standard error.
    #[track_caller]
    pub fn stop_fails(mut self) -> String {
        self.ask_to_stop();
        let status = self.child.wait().expect("it is our child");
        assert_eq!(status.code(), Some(1), "engram up: {status}\n{}", self.log());
        self.log()
    }

    /// GET of a path of its HTTP interface, as JSON.
    pub fn get(&self, path: &str) -> Value {
        self.get_with(path, &[])
    }

    /// As `get`, with query parameters.
    pub fn get_with(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let asked = ureq::get(format!("{}{path}", self.http)).query_pairs(parameters.iter().copied()).call();
        let mut response =
            asked.unwrap_or_else(|error| panic!("{path}: {error}\n{}\n{}", self.log(), self.how_it_is()));
        response.body_mut().read_json().expect("JSON")
    }

    /// Waits until all services have had nothing to do for a while.
    pub fn wait_until_idle(&self, deadline: Duration) {
        wait_until("the services are idle", deadline, || {
            let services = self.get("/v1/services");
            let services = services.as_array().expect("a list");
            let mut workers = services.iter().flat_map(|service| service["workers"].as_array().expect("a list"));
            workers.all(|worker| worker["idle_ms"].as_i64().is_some_and(|idle_ms| idle_ms > 500))
        });
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
