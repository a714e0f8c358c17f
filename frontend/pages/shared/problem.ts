// A problem that is shown to the user: what happened, and what helps.

export interface Problem {
  readonly error: string;
  readonly help: string;
}

export class SignInFailed extends Error implements Problem {
  readonly error: string;
  readonly help: string;
  constructor(error: string, help: string) {
    super(error);
    this.error = error;
    this.help = help;
  }
}
