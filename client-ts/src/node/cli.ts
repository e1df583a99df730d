#!/usr/bin/env node
/// <reference types="node" />
import process from "node:process";
import { chat } from "./index.ts";

process.exitCode = await chat(process.argv.slice(2), process);
