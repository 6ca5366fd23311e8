//! The Dockerfile and docker-compose.yml name commands, options, variables, ports and files: each must exist.
//! A container cannot be built in every place where the tests run, so the texts are checked against the binary itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_yaml_ng::Value;

const ENGRAM: &str = env!("CARGO_BIN_EXE_engram");

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What `engram COMMAND --help` prints. Panics when there is no such command.
fn help(command: &str) -> String {
    let output = Command::new(ENGRAM).args([command, "--help"]).output().expect("the binary runs");
    assert!(output.status.success(), "there is no `engram {command}`");
    String::from_utf8(output.stdout).expect("help is UTF-8")
}

/// The words of a help text, without the punctuation around them.
fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).collect()
}

/// `arguments` are what follows `engram`: a command, then options, each with its value.
fn check_command_line(arguments: &[String]) {
    let (command, options) = arguments.split_first().expect("a command is named");
    let text = help(command);
    let known = words(&text);
    for option in options.iter().filter(|word| word.starts_with('-')) {
        assert!(known.contains(option.as_str()), "`engram {command}` has no {option}");
    }
}

fn check_variable(name: &str) {
    let known = format!("[env: {name}=");
    assert!(help("up").contains(&known), "`engram up` does not read {name}");
}

/// The value that follows `option`.
fn value_of<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|word| word == option)?;
    arguments.get(at + 1).map(String::as_str)
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_sequence().expect("a list");
    items.iter().map(|item| item.as_str().expect("a text").to_owned()).collect()
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().expect("an address has a port")
}

// ---- docker-compose.yml

fn compose() -> Value {
    let mut document: Value = serde_yaml_ng::from_str(&read("docker-compose.yml")).expect("docker-compose.yml is YAML");
    document.apply_merge().expect("its anchors can be merged");
    document
}

/// The services that run the image of this repository.
fn engram_services(compose: &Value) -> Vec<(&str, &Value)> {
    let services = compose["services"].as_mapping().expect("services");
    let ours: Vec<_> = services
        .iter()
        .filter(|(_, service)| !service["build"].is_null())
        .map(|(name, service)| (name.as_str().expect("a name"), service))
        .collect();
    assert!(!ours.is_empty(), "some service runs engram");
    ours
}

#[test]
fn compose_commands_and_health_checks_exist() {
    for (name, service) in engram_services(&compose()) {
        check_command_line(&strings(&service["command"]));

        let health = strings(&service["healthcheck"]["test"]);
        assert_eq!(health[..2], ["CMD", "engram"], "{name}: health check");
        check_command_line(&health[2..]);

        if let Some(variables) = service["environment"].as_mapping() {
            for variable in variables.keys() {
                check_variable(variable.as_str().expect("a name"));
            }
        }
    }
}

#[test]
fn compose_runs_services_that_the_binary_knows() {
    for (name, service) in engram_services(&compose()) {
        let command = strings(&service["command"]);
        let services = value_of(&command, "--services").expect("--services is given");
        assert!(up(services), "{name}: `engram up --services {services}` fails");
    }
    assert!(!up("no-such-service"), "an unknown service is refused");
}

/// Whether `engram up` with these services starts, and ends well, on an empty log.
fn up(services: &str) -> bool {
    let data = tempfile::tempdir().expect("a temporary folder can be made");
    let status = Command::new(ENGRAM)
        .args(["up", "--services", services, "--exit-when-idle", "1"])
        .args(["--http", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .env_remove("ENGRAM_BROKERS")
        .output()
        .expect("the binary runs")
        .status;
    status.success()
}

#[test]
fn compose_addresses_fit_together() {
    let compose = compose();
    let kafka = &compose["services"]["kafka"];
    let listener = kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].as_str().expect("Kafka advertises a listener");
    let brokers = listener.trim_start_matches("PLAINTEXT://");
    assert_eq!(value_of(&strings(&kafka["healthcheck"]["test"]), "--bootstrap-server"), Some(brokers));
    for (name, service) in engram_services(&compose) {
        let command = strings(&service["command"]);
        let health = strings(&service["healthcheck"]["test"]);
        assert_eq!(value_of(&command, "--brokers"), Some(brokers), "{name}");
        assert_eq!(value_of(&health, "--brokers"), Some(brokers), "{name}: health check");
        assert_eq!(
            service["depends_on"]["kafka"]["condition"].as_str(),
            Some("service_healthy"),
            "{name} waits for Kafka"
        );

        let http = value_of(&command, "--http").expect("--http is given");
        for published in strings(&service["ports"]) {
            assert_eq!(port(&published), port(http), "{name}: the published port is the one served");
        }

        let data = value_of(&command, "--data").expect("--data is given");
        let mounted = strings(&service["volumes"]).into_iter().any(|volume| {
            let (source, target) = volume.split_once(':').expect("SOURCE:TARGET");
            assert!(compose["volumes"].get(source).is_some(), "{name}: volume {source} is declared");
            target == data
        });
        assert!(mounted, "{name}: {data} is on a volume");
    }
}

#[test]
fn compose_limits_every_container() {
    let compose = compose();
    for (name, service) in compose["services"].as_mapping().expect("services") {
        for limit in ["cpus", "memory"] {
            let value = service["deploy"]["resources"]["limits"][limit].as_str();
            assert!(value.is_some(), "{name:?} has no limit of {limit}");
        }
    }
}

#[test]
fn compose_runs_the_tested_kafka() {
    let pom = read("deploy/kafka/pom.xml");
    let (_, rest) = pom.split_once("<kafka.version>").expect("the pom names a version");
    let (version, _) = rest.split_once('<').expect("the element ends");
    let image = format!("apache/kafka:{version}");
    assert_eq!(compose()["services"]["kafka"]["image"].as_str(), Some(image.as_str()));
}

#[test]
fn compose_builds_from_files_that_exist() {
    for (name, service) in engram_services(&compose()) {
        let context = service["build"]["context"].as_str().expect("a context");
        let file = service["build"]["dockerfile"].as_str().expect("a Dockerfile");
        assert!(repository().join(context).join(file).is_file(), "{name}: {file}");
    }
}

// ---- Dockerfile

/// Its instructions, one a line: (`COPY`, `. .`). Comments are dropped, continued lines joined.
fn dockerfile() -> Vec<(String, String)> {
    read("Dockerfile")
        .replace("\\\n", " ")
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').expect("an instruction with arguments"))
        .map(|(instruction, rest)| (instruction.to_owned(), rest.trim().to_owned()))
        .collect()
}

fn arguments_of(instruction: &str) -> Vec<String> {
    dockerfile().into_iter().filter(|(name, _)| name == instruction).map(|(_, rest)| rest).collect()
}

/// `["engram", "up"]` as a list.
fn exec_form(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn variables() -> Vec<(String, String)> {
    let text = arguments_of("ENV").join(" ");
    text.split_whitespace()
        .map(|pair| pair.split_once('=').expect("NAME=VALUE"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn dockerfile_commands_exist() {
    assert_eq!(arguments_of("ENTRYPOINT"), [r#"["engram"]"#]);
    for command in arguments_of("CMD") {
        check_command_line(&exec_form(&command));
    }
    let health = arguments_of("HEALTHCHECK");
    let (_, command) = health[0].split_once("CMD ").expect("a health check has a command");
    let command = exec_form(command);
    assert_eq!(command[0], "engram");
    check_command_line(&command[1..]);
}

#[test]
fn dockerfile_variables_and_ports_exist() {
    let variables = variables();
    assert!(!variables.is_empty(), "the image sets some");
    for (name, _) in &variables {
        check_variable(name);
    }
    let value = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let http = value("ENGRAM_HTTP").expect("the image sets the address");
    assert_eq!(arguments_of("EXPOSE"), [port(&http)]);
    assert_eq!(arguments_of("VOLUME").first(), value("ENGRAM_DATA").as_ref());
}

#[test]
fn dockerfile_copies_files_that_exist() {
    let mut checked = 0;
    for copy in arguments_of("COPY").iter().filter(|copy| !copy.starts_with("--from=")) {
        let paths: Vec<_> = copy.split_whitespace().collect();
        let (_, sources) = paths.split_last().expect("sources and a target");
        for source in sources {
            assert!(repository().join(source).exists(), "COPY {source}");
            checked += 1;
        }
    }
    assert!(checked > 0, "something is copied");
}

#[test]
fn dockerfile_builds_with_the_declared_rust_and_what_setup_installs() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("rust-version = \"").expect("Cargo.toml names a Rust version");
    let (rust, _) = rest.split_once('"').expect("the text ends");
    let from = arguments_of("FROM");
    assert!(from[0].starts_with(&format!("rust:{rust}-")), "{}", from[0]);

    let setup = read("deploy/setup.sh");
    let run = arguments_of("RUN");
    let (_, packages) = run[0].split_once("--no-install-recommends ").expect("packages are installed");
    for package in packages.split_whitespace().take_while(|word| *word != "&&") {
        assert!(setup.contains(&format!("({package})")), "{package}");
    }
}
