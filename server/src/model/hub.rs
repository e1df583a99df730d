//! Models on Hugging Face. They are fetched into the cache folder that other tools share (`HF_HOME`, by default
//! `~/.cache/huggingface`), and found there without a network. `HF_TOKEN`, or a file in that folder, has the token; `HF_ENDPOINT` names
//! a mirror.

use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};

/// Retries of a download. Each continues where the last one broke off.
const RETRIES: usize = 3;

/// A repository at one revision.
pub struct Repository {
    id: String,
    repo: Repo,
    cache: Cache,
}

/// The reason why a model cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(
        "`{id}` is not a file or folder, is not in the cache {}, and Hugging Face cannot be reached: {reason}. Fetch the model \
         on a machine with a network and set model to its folder, or copy that machine's cache",
        cache.display()
    )]
    Unreachable { id: String, reason: String, cache: PathBuf },
    #[error(
        "{file} of `{id}` cannot be fetched from Hugging Face: {reason}. The part that arrived is in {}; start again to continue",
        cache.display()
    )]
    Fetch { id: String, file: String, reason: String, cache: PathBuf },
    #[error("{0}")]
    Choice(String),
}

/// Whether a setting has the form of `owner/name`.
pub fn is_repository(named: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    named.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name)) && !named.ends_with(".gguf")
}

impl Repository {
    /// `revision` is a branch, a tag or a commit; empty: `main`.
    pub fn new(id: &str, revision: &str) -> Self {
        let revision = if revision.is_empty() { "main" } else { revision };
        let repo = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        Self { id: id.to_owned(), repo, cache: Cache::from_env() }
    }

    /// Fetches the model and returns its GGUF file, or its folder with safetensors. `file` chooses a GGUF file, `uqff` a file with
    /// quantised weights. Blocks during the download.
    ///
    /// # Errors
    /// There is no network and the model is not in the cache, the repository does not have the chosen file, or a download fails.
    pub fn model(&self, file: &str, uqff: &str) -> Result<PathBuf, HubError> {
        let api = self.api()?;
        let files = self.files(&api)?;
        let chosen =
            choose(&files, file, uqff).map_err(|reason| HubError::Choice(format!("`{}` {reason}", self.id)))?;
        self.get(&api, &chosen)
    }

    /// Fetches a LoRA adapter and returns its folder. Blocks during the download.
    ///
    /// # Errors
    /// Those of [`Self::model`].
    pub fn adapter(&self) -> Result<PathBuf, HubError> {
        let files = ["adapter_config.json", "adapter_model.safetensors"].map(str::to_owned);
        self.get(&self.api()?, &Chosen::Folder(files.to_vec()))
    }

    fn api(&self) -> Result<ApiRepo, HubError> {
        let mut builder = ApiBuilder::from_env().with_progress(std::io::stderr().is_terminal()).with_retries(RETRIES);
        if let Ok(token) = std::env::var("HF_TOKEN") {
            builder = builder.with_token(Some(token.trim().to_owned()));
        }
        let api = builder.build().map_err(|error| self.unreachable(&error))?;
        Ok(api.repo(self.repo.clone()))
    }

    /// Lists the files of the repository; without a network, those in the cache.
    fn files(&self, api: &ApiRepo) -> Result<Vec<String>, HubError> {
        match api.info() {
            Ok(info) => Ok(info.siblings.into_iter().map(|file| file.rfilename).collect()),
            Err(error) => match self.cached().filter(|files| !files.is_empty()) {
                Some(files) => {
                    tracing::warn!(model = self.id, %error, "Hugging Face cannot be reached; using the model in the cache");
                    Ok(files)
                }
                None => Err(self.unreachable(&error)),
            },
        }
    }

    fn cached(&self) -> Option<Vec<String>> {
        let folder = self.cache.path().join(self.repo.folder_name());
        let commit = fs::read_to_string(folder.join("refs").join(self.repo.revision())).ok()?;
        let entries = fs::read_dir(folder.join("snapshots").join(commit.trim())).ok()?;
        Some(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Fetches the chosen files that are not in the cache, and returns the path of the file or the folder.
    fn get(&self, api: &ApiRepo, chosen: &Chosen) -> Result<PathBuf, HubError> {
        let files = match chosen {
            Chosen::File(file) => std::slice::from_ref(file),
            Chosen::Folder(files) => files,
        };
        let mut path = PathBuf::new();
        for file in files {
            path = api.get(file).map_err(|error| HubError::Fetch {
                id: self.id.clone(),
                file: file.clone(),
                reason: error.to_string(),
                cache: self.cache.path().clone(),
            })?;
        }
        Ok(match chosen {
            Chosen::File(_) => path,
            Chosen::Folder(_) => path.parent().map(Path::to_owned).unwrap_or_default(),
        })
    }

    fn unreachable(&self, error: &ApiError) -> HubError {
        let (id, cache) = (self.id.clone(), self.cache.path().clone());
        HubError::Unreachable { id, reason: error.to_string(), cache }
    }
}

#[derive(Debug, PartialEq)]
enum Chosen {
    File(String),
    /// Files of one folder.
    Folder(Vec<String>),
}

/// Chooses the files to fetch from the files of a repository.
fn choose(files: &[String], file: &str, uqff: &str) -> Result<Chosen, String> {
    let gguf: Vec<&String> = files.iter().filter(|name| name.ends_with(".gguf")).collect();
    let list = |names: &[&String]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    if !file.is_empty() {
        return match files.iter().find(|name| *name == file) {
            Some(found) => Ok(Chosen::File(found.clone())),
            None if gguf.is_empty() => Err(format!("has no file `{file}`, and no GGUF file at all")),
            None => Err(format!("has no file `{file}`; it has {}", list(&gguf))),
        };
    }
    let quantised = uqff.trim_end_matches(".uqff").trim_end_matches(|c: char| c.is_ascii_digit());
    let wanted = |name: &&String| match name.rsplit_once('.') {
        _ if name.contains('/') => false,
        Some((_, "json" | "jinja")) => true,
        Some((_, "safetensors")) => {
            uqff.is_empty() || *name == "residual.safetensors" || files.iter().all(|n| n != "residual.safetensors")
        }
        // Also the other parts: `q4k-0.uqff`, `q4k-1.uqff`, …
        Some((stem, "uqff")) => !uqff.is_empty() && stem.starts_with(quantised),
        _ => false,
    };
    let folder: Vec<String> = files.iter().filter(wanted).cloned().collect();
    if !uqff.is_empty() && !folder.iter().any(|name| name == uqff) {
        return Err(format!("has no file `{uqff}`"));
    }
    if folder.iter().any(|name| name.ends_with(".safetensors")) {
        return Ok(Chosen::Folder(folder));
    }
    match gguf.as_slice() {
        [] => Err("has neither safetensors nor GGUF files".into()),
        [one] => Ok(Chosen::File((*one).clone())),
        several => Err(format!("has several GGUF files; set file to one of {}", list(several))),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn repositories_are_told_from_paths() {
        for (named, expected) in [
            ("HuggingFaceTB/SmolLM2-135M-Instruct", true),
            ("/models/a", false),
            ("./a/b", false),
            ("../a", false),
            ("a/b/c", false),
            ("models/model.gguf", false),
            ("model.gguf", false),
            ("", false),
        ] {
            assert_eq!(is_repository(named), expected, "{named}");
        }
    }

    #[test]
    fn the_files_of_a_model_are_chosen() {
        let files = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let plain = files(&[
            "README.md",
            "config.json",
            "tokenizer.json",
            "model.safetensors",
            "onnx/model.onnx",
            "onnx/a.json",
        ]);
        let folder = |names: &[&str]| Ok(Chosen::Folder(files(names)));
        assert_eq!(choose(&plain, "", ""), folder(&["config.json", "tokenizer.json", "model.safetensors"]));
        assert!(choose(&plain, "x.gguf", "").unwrap_err().contains("no file `x.gguf`"));
        let two = files(&["a.Q4_0.gguf", "a.Q8_0.gguf", "config.json"]);
        assert_eq!(choose(&two, "a.Q8_0.gguf", ""), Ok(Chosen::File("a.Q8_0.gguf".into())));
        let several = choose(&two, "", "").unwrap_err();
        assert!(several.contains("a.Q4_0.gguf") && several.contains("a.Q8_0.gguf"), "{several}");
        assert_eq!(choose(&files(&["a.gguf"]), "", ""), Ok(Chosen::File("a.gguf".into())));
        assert!(choose(&files(&["README.md"]), "", "").is_err());
        let uqff = files(&[
            "config.json",
            "residual.safetensors",
            "q4k-0.uqff",
            "q4k-1.uqff",
            "q8_0-0.uqff",
            "model.safetensors",
        ]);
        let expected = folder(&["config.json", "residual.safetensors", "q4k-0.uqff", "q4k-1.uqff"]);
        assert_eq!(choose(&uqff, "", "q4k-0.uqff"), expected);
        assert!(choose(&uqff, "", "q2k-0.uqff").is_err());
    }

    /// Serves one repository with one file, as Hugging Face does, for `requests` requests.
    fn endpoint(content: &'static [u8], requests: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(requests) {
                let mut stream = BufReader::new(stream.unwrap());
                let lines = stream.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty());
                let head: Vec<String> = lines.collect();
                let is_probe = head.iter().any(|line| line.eq_ignore_ascii_case("range: bytes=0-0"));
                let (headers, body): (_, &[u8]) = match head[0].split(' ').nth(1).unwrap() {
                    "/api/models/owner/name/revision/main" => {
                        (String::new(), br#"{"sha": "abc", "siblings": [{"rfilename": "a.gguf"}]}"#)
                    }
                    "/owner/name/resolve/main/a.gguf" => {
                        let range = format!("content-range: bytes 0-0/{}\r\n", content.len());
                        (
                            format!("etag: \"e\"\r\nx-repo-commit: abc\r\n{range}"),
                            if is_probe { &content[..1] } else { content },
                        )
                    }
                    other => panic!("asked for {other}"),
                };
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n");
                stream.get_mut().write_all(&[head.as_bytes(), body].concat()).unwrap();
            }
        });
        format!("http://{address}")
    }

    #[test]
    fn a_file_is_fetched_once() {
        let cache = std::env::temp_dir().join(format!("caudal-hub-fetch-{}", std::process::id()));
        let id = "owner/name".to_owned();
        let repository = Repository { repo: Repo::model(id.clone()), cache: Cache::new(cache.clone()), id };
        // First run: the list, the file's head, the file. Second run: the list.
        let url = endpoint(b"GGUF and more", 4);
        let api = ApiBuilder::from_cache(repository.cache.clone()).with_progress(false).with_endpoint(url);
        let api = api.build().unwrap().repo(repository.repo.clone());
        for _ in 0..2 {
            let chosen = choose(&repository.files(&api).unwrap(), "", "").unwrap();
            assert_eq!(fs::read(repository.get(&api, &chosen).unwrap()).unwrap(), b"GGUF and more");
        }
        // The server has ended, so another file cannot be fetched.
        let lost = repository.get(&api, &Chosen::File("b.gguf".into())).unwrap_err().to_string();
        assert!(lost.contains("b.gguf") && lost.contains("owner/name"), "{lost}");
        fs::remove_dir_all(&cache).unwrap();
    }

    /// Nothing listens on port 9 of this machine.
    #[test]
    fn without_a_network_the_error_names_the_address_and_the_cache() {
        let cache = std::env::temp_dir().join(format!("caudal-hub-{}", std::process::id()));
        let id = "owner/name".to_owned();
        let repository = Repository { repo: Repo::model(id.clone()), cache: Cache::new(cache.clone()), id };
        let api = ApiBuilder::from_cache(repository.cache.clone()).with_endpoint("http://127.0.0.1:9".into());
        let api = api.build().unwrap().repo(repository.repo.clone());
        let error = repository.files(&api).unwrap_err().to_string();
        assert!(error.contains("owner/name") && error.contains("127.0.0.1:9"), "{error}");
        assert!(error.contains(&cache.display().to_string()), "{error}");
        // A model in the cache needs no network.
        let folder = cache.join(repository.repo.folder_name());
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::create_dir_all(folder.join("snapshots/abc")).unwrap();
        fs::write(folder.join("refs/main"), "abc").unwrap();
        fs::write(folder.join("snapshots/abc/model.gguf"), "x").unwrap();
        let chosen = choose(&repository.files(&api).unwrap(), "", "").unwrap();
        assert_eq!(repository.get(&api, &chosen).unwrap(), folder.join("snapshots/abc/model.gguf"));
        fs::remove_dir_all(&cache).unwrap();
    }
}
