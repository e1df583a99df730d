import type { ReactNode } from "react";

const IDEAS = [
  "Write a Python function that reverses a string",
  "What is photosynthesis, in two sentences?",
  "How do I stay focused while working from home?",
  "Write a friendly email that moves a meeting to Friday",
];

interface WelcomeProps {
  /** The conversation that was to be shown is not there. */
  isGone: boolean;
  onPick: (prompt: string) => void;
}

export function Welcome({ isGone, onPick }: WelcomeProps): ReactNode {
  return (
    <section className="welcome" aria-labelledby="welcome">
      {isGone && (
        <div className="problem" role="alert">
          <p>This conversation is not here any more.</p>
        </div>
      )}
      <h2 id="welcome">What would you like to know?</h2>
      <p>
        Answers stream from a model that runs on this server. Reload the page or lose the connection: the answer goes on
        where it was.
      </p>
      <ul>
        {IDEAS.map((idea) => (
          <li key={idea}>
            <button type="button" onClick={() => onPick(idea)}>
              {idea}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
