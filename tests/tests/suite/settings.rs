//! Tests the command line: layered settings, errors that name the key, masked secrets.

use std::{fs, net::TcpListener, path::PathBuf, process::Output};

use caudal_tests::{Setup, http, spawn_app, until};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A temporary file, deleted at the end of the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("caudal-{}-{name}.toml", std::process::id()));
        fs::write(&path, content).expect("a temporary file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_wrong_setting_is_an_error_that_names_the_key() {
    for (setting, key) in [
        ("server.bnd=x", "server.bnd"),
        ("nonsense=1", "nonsense"),
        ("engine.scripted.colour=red", "engine.scripted.colour"),
        ("engine.max_running=many", "engine.max_running"),
        ("engine.max_running=-1", "engine.max_running"),
        ("engine.kind=gpt", "engine.kind"),
        ("server.bind=here", "server.bind"),
        ("server.allowed_origins=7", "server.allowed_origins"),
        ("generation.orphan_grace_ms=soon", "generation.orphan_grace_ms"),
        ("auth.mode=keys", "auth.keys"),
        (r#"auth.keys=[{key="long enough"}]"#, "tenant"),
        ("auth.mode=ajar", "auth.mode"),
        ("no-assignment", "no-assignment"),
    ] {
        for subcommand in ["serve", "config"] {
            let output = Setup::scripted().set(&[setting]).run(subcommand);
            assert!(!output.status.success(), "{subcommand} --set {setting} is an error");
            assert!(stderr(&output).contains(key), "{subcommand} --set {setting}: {}", stderr(&output));
            assert!(output.stdout.is_empty(), "an error is no output: {output:?}");
            assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
        }
    }
}

#[test]
fn a_wrong_file_or_environment_is_an_error_that_names_it() {
    let file = File::new("wrong", "[server]\nbnd = 1\n");
    let output = Setup::scripted().argument("--config").argument(file.path()).run("config");
    let said = format!("unknown setting server.bnd; did you mean server.bind? ({}, line 2)", file.path());
    assert!(!output.status.success() && stderr(&output).contains(&said), "{}", stderr(&output));
    let wrong = File::new("type", "[server]\nworkers = 1\n[engine]\n\nmax_running = \"many\"\n");
    let output = Setup::scripted().argument("--config").argument(wrong.path()).run("config");
    assert!(stderr(&output).contains(&format!("({}, line 5)", wrong.path())), "{}", stderr(&output));
    let folder = std::env::temp_dir();
    let output = Setup::scripted().argument("--config").argument(&folder.to_string_lossy()).run("config");
    assert!(!output.status.success() && stderr(&output).contains("a folder, not a file"), "{}", stderr(&output));
    let output = Setup::scripted().argument("--config").argument("/nowhere/at/all.toml").run("config");
    assert!(!output.status.success() && stderr(&output).contains("/nowhere/at/all.toml"), "{}", stderr(&output));
    let broken = File::new("broken", "[server\n");
    let output = Setup::scripted().argument("--config").argument(broken.path()).run("config");
    assert!(!output.status.success() && !stderr(&output).is_empty());
    let output = Setup::scripted().env("CAUDAL__SERVER__BND", "1").run("config");
    let said = "unknown setting server.bnd; did you mean server.bind? (the environment's CAUDAL__SERVER__BND)";
    assert!(!output.status.success() && stderr(&output).contains(said), "{}", stderr(&output));
    let output = Setup::scripted().env("CAUDAL__ENGINE__MAX_RUNNING", "many").run("config");
    assert!(!output.status.success() && stderr(&output).contains("engine.max_running"), "{}", stderr(&output));
}

/// Returns `engine.max_running` as `caudal config` prints it.
fn max_running(setup: Setup) -> String {
    let output = setup.run("config");
    assert!(output.status.success(), "{}", stderr(&output));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = stdout.lines().find_map(|line| line.trim().strip_prefix("max_running = "));
    line.unwrap_or_else(|| panic!("no engine.max_running in:\n{stdout}")).to_owned()
}

#[tokio::test]
async fn a_chat_page_that_is_not_there_is_warned_about() {
    let app = spawn_app(&["server.chat_dir=/nowhere/at/all"]);
    until("a warning", || async { app.stderr().contains("server.chat_dir: /nowhere/at/all has no").then_some(()) })
        .await;
    assert_eq!(http::get(app.address, "/").await.status, 404);
}

#[tokio::test]
async fn a_redis_that_cannot_be_reached_is_named_without_its_password() {
    let app = spawn_app(&["store.kind=redis", "store.redis.url=redis://user:pass-phrase@127.0.0.1:1/0"]);
    let said = "store.redis.url: redis://127.0.0.1:1/0 cannot be reached: ";
    until("a warning", || async { app.stderr().contains(said).then_some(()) }).await;
    assert!(!app.stderr().contains("pass-phrase"), "{}", app.stderr());
}

#[test]
fn a_setting_that_is_gone_names_what_took_its_place() {
    for (setting, instead) in [
        ("engine.mode=batch", "one batch"),
        ("engine.slots=2", "engine.max_running"),
        ("engine.prefix_cache_mb=64", "engine.kv_mb"),
        ("engine.models=[{slots=2}]", "engine.max_running"),
    ] {
        let output = Setup::scripted().set(&[setting]).run("config");
        let stderr = stderr(&output);
        assert!(
            !output.status.success() && stderr.contains("is gone") && stderr.contains(instead),
            "{setting}: {stderr}"
        );
    }
}

#[test]
fn later_layers_win() {
    let (first, second) =
        (File::new("first", "[engine]\nmax_running = 11\n"), File::new("second", "[engine]\nmax_running = 22\n"));
    assert_eq!(max_running(Setup::scripted()), "0", "the default");
    let files = || Setup::scripted().argument("--config").argument(first.path());
    assert_eq!(max_running(files()), "11", "a file over the default");
    let files = || files().argument("--config").argument(second.path());
    assert_eq!(max_running(files()), "22", "a later file over an earlier one");
    let environment = || files().env("CAUDAL__ENGINE__MAX_RUNNING", "33");
    assert_eq!(max_running(environment()), "33", "the environment over files");
    assert_eq!(max_running(environment().set(&["engine.max_running=44"])), "44", "--set over the environment");
    assert_eq!(
        max_running(environment().set(&["engine.max_running=44", "engine.max_running=55"])),
        "55",
        "a later --set over an earlier one"
    );
}

#[test]
fn config_prints_what_is_in_effect_with_secrets_masked() {
    let keys = r#"auth.keys=[{key="a-very-secret-key", tenant="somebody"}]"#;
    let output =
        Setup::scripted().set(&["auth.mode=keys", keys, "store.redis.url=redis://:pass-phrase@host"]).run("config");
    assert!(output.status.success(), "{}", stderr(&output));
    let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
    assert!(!all.contains("a-very-secret-key") && !all.contains("pass-phrase"), "{all}");
    for shown in ["somebody", "127.0.0.1:0", "scripted", "max_message_bytes", "orphan_grace_ms"] {
        assert!(all.contains(shown), "{shown} is not in:\n{all}");
    }
}

#[test]
fn secrets_are_not_logged() {
    let keys = r#"auth.keys=[{key="a-very-secret-key", tenant="somebody"}]"#;
    let app = spawn_app(&["auth.mode=keys", keys, "log.filter=trace"]);
    let request = async {
        http::call(app.address, "GET", "/v1/models").header("authorization", "Bearer a-very-secret-key").send().await
    };
    let answer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(request);
    assert_eq!(answer.status, 200);
    assert!(!app.stderr().contains("a-very-secret-key"), "{}", app.stderr());
}

#[test]
fn a_port_in_use_is_said_clearly() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let output = Setup::scripted().set(&[&format!("server.bind={address}")]).run("serve");
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(said.contains("server.bind") && said.contains(&address) && said.contains("in use"), "{said}");
}

#[test]
fn help_names_the_subcommands() {
    let output = Setup::default().argument("--help").run("serve");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && help.contains("--set") && help.contains("--config"), "{help}");
}

#[test]
fn health_says_whether_a_server_is_ready() {
    let app = spawn_app(&[]);
    let bind = format!("server.bind={}", app.address);
    let ask = || Setup::default().set(&[&bind]).run("health");
    let ready = ask();
    assert!(ready.status.success(), "{}", stderr(&ready));
    drop(app);
    let gone = ask();
    assert!(!gone.status.success() && stderr(&gone).contains("nothing listens"), "{}", stderr(&gone));
}
