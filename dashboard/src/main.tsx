import { render } from 'preact';

import { Shell } from './shell.tsx';
import { connect } from './state/gateway.ts';
import './styles/tokens.css';
import './styles/base.css';

const root = document.getElementById('page');
if (root) render(<Shell />, root);
void connect();
