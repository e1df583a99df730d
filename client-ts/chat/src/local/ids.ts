/** Whether a conversation began in this browser, and the server does not know it yet. */
export function isLocal(conversation: string | undefined): boolean {
  return conversation?.startsWith("local_") ?? false;
}
