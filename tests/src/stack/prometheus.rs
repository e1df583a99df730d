//! Prometheus with the stack's own configuration files, on a free port.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{http, redis::free_port};

/// The file from which the configuration reads the key of the replicas' metrics.
const KEY_FILE: &str = "/run/secrets/caudal_admin_key";

/// A running Prometheus. Dropping the handle ends the process.
pub struct Prometheus {
    pub address: SocketAddr,
    child: Child,
}

impl Prometheus {
    /// Starts Prometheus for replicas with this admin key. `dir` is for its files and must exist. `interval`, such as `1s`,
    /// replaces the scrape interval of the configuration file.
    pub fn spawn(dir: &Path, replicas: &[SocketAddr], key: &str, interval: Option<&str>) -> Self {
        let (config, own) = (super::config_dir().join("prometheus"), dir.join("prometheus"));
        let read = |name: &str| fs::read_to_string(config.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let write = |name: &str, text: &str| {
            let path = own.join(name);
            fs::create_dir_all(&own).expect("a folder for Prometheus");
            fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        };
        let address = free_port();
        let mut main = read("prometheus.yml").replace("localhost:9090", &address.to_string());
        main = main.replace(KEY_FILE, &own.join("admin_key").to_string_lossy());
        if let Some(interval) = interval {
            main = main.replace("scrape_interval: 5s", &format!("scrape_interval: {interval}"));
        }
        let targets: Vec<String> = replicas.iter().map(SocketAddr::to_string).collect();
        write("prometheus.yml", &main);
        write("alerts.yml", &read("alerts.yml"));
        write("replicas.json", &json!([{ "targets": targets }]).to_string());
        write("admin_key", key);
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", own.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", own.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(own.join("log")).expect("Prometheus' log")))
            // Ctrl-C must reach the parent process only, which ends Prometheus itself.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("prometheus does not start ({e}): on Debian: apt-get install prometheus"));
        Self { address, child }
    }

    /// Returns the samples of an expression now; none while Prometheus does not answer yet.
    ///
    /// # Errors
    /// Prometheus's error if it refuses the expression.
    pub async fn query(&self, expression: &str) -> Result<Vec<f64>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let Ok(answer) = http::try_get(self.address, &format!("/api/v1/query?query={encoded}")).await else {
            return Ok(vec![]);
        };
        if answer.status == 503 {
            return Ok(vec![]);
        }
        let answer = answer.json();
        if answer["status"] != "success" {
            return Err(answer.to_string());
        }
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |series: &Value| series["value"][1].as_str().and_then(|value| value.parse().ok());
        Ok(series.iter().filter_map(value).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
