// What is said to the person: the message names the file, what was expected and what came.
export class InputError extends Error {
  constructor(message) {
    super(message);
    this.name = "InputError";
  }
}
