//! Shows the progress of loading models: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::engine::ModelStatus;

/// Shows the progress on stderr until the task is aborted or the sender is dropped. Then the bar disappears.
pub async fn show(mut progress: watch::Receiver<Vec<ModelStatus>>) {
    let bar = std::io::stderr().is_terminal().then(bar);
    loop {
        let models = progress.borrow_and_update().clone();
        match &bar {
            Some(bar) => {
                bar.set_length(models.len().max(1) as u64);
                bar.set_position(models.iter().filter(|model| model.loaded).count() as u64);
                bar.set_message(describe(&models));
                bar.tick();
            }
            None => eprintln!("loading: {}", describe(&models)),
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// Names the model that is being loaded, or the current step.
fn describe(models: &[ModelStatus]) -> String {
    match models.iter().find(|model| !model.loaded) {
        Some(next) => next.id.clone(),
        None if models.is_empty() => "checking the models".into(),
        None => "starting".into(),
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    match ProgressStyle::with_template("{spinner} loading {bar:24} {pos} of {len}  {msg}  {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_being_loaded_is_named() {
        let status = |id: &str, loaded| ModelStatus { id: id.into(), loaded };
        assert_eq!(describe(&[]), "checking the models");
        assert_eq!(describe(&[status("a", true), status("b", false)]), "b");
        assert_eq!(describe(&[status("a", true), status("b", true)]), "starting");
    }
}
