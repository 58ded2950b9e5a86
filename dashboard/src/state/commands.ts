// Commands whose change the feed has told, newest change last.

import { signal } from '@preact/signals';

import type { Command } from '../api/types.ts';

/** The one that changed last. What lists commands takes it up from here. */
export const lastCommand = signal<Command | null>(null);

export function takeCommand(command: Command): void {
  lastCommand.value = command;
}
